"""A server in the place of the Hugging Face hub, for tests of names and addresses."""

import functools
import http.server
import threading

import numpy as np
import pytest

SIZES = {"image_size": 8, "channels": 3, "patch_size": 2, "width": 24, "depth": 1, "heads": 3}


def filled(network, seed=0):
    """Gives every weight of a network random values."""
    rng = np.random.default_rng(seed)
    for variable in network.weights:
        variable.assign(0.2 * rng.standard_normal(variable.shape))
    return network


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server in the place of the hub, and an empty cache; gives the folder it serves."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    root = tmp_path / "hub"
    root.mkdir()
    handler = functools.partial(Quiet, directory=root)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KMF_CACHE", str(tmp_path / "cache"))
    yield root
    server.shutdown()
