"""Damaged files of every kind that is read: the right numbers or one clear error, nothing else.

The seed is fixed. Each file is changed many times: bytes are changed, left out, put in or cut off.
Formats without a checksum (see SECURITY.md) may give other numbers; all others may not.
"""

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow import DiT, FlowMap
from keras_meanflow.cli.backend import recorded_backend
from keras_meanflow.codecs import Identity
from keras_meanflow.data import ArraySource
from keras_meanflow.data.encoding import encode
from keras_meanflow.data.latents import LatentStore
from keras_meanflow.data.pairs import PairStore
from keras_meanflow.data.reflow import reflow
from keras_meanflow.evaluation.reports import read_reports, write_reports
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.saved import load_saved
from keras_meanflow.files.writers import write_weights
from keras_meanflow.flow_map.presets import load_codec
from keras_meanflow.formats.conversion import load_network, save_network
from keras_meanflow.metrics.reference import Reference
from keras_meanflow.networks import MLP
from keras_meanflow.samplers import Euler
from keras_meanflow.training.run import describe, read_settings

pytestmark = pytest.mark.long
SEED = 20261128
STATE = {"a.weight": np.arange(24, dtype="f4").reshape(4, 6), "a.bias": np.ones(3, "f4")}


def weights_of(model):
    return [ops.convert_to_numpy(v) for v in model.weights], model.get_config()


def network():
    return MLP(data_size=2, width=8, depth=1, num_classes=3)


def latent_map():
    sizes = {"image_size": 4, "channels": 3, "patch_size": 2, "width": 8, "depth": 1, "heads": 2}
    return FlowMap(DiT(**sizes), averages=())


def containers(folder, ending):
    write_weights(folder / f"a{ending}", STATE)
    return folder / f"a{ending}", lambda: read_weights(folder / f"a{ending}")


def foreign_safetensors(folder):
    path, load = containers(folder, ".safetensors")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    del header["__metadata__"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return path, load


def old_torch(folder):
    torch = pytest.importorskip("torch", reason="torch writes the file that is read here")
    state = {name: torch.tensor(array) for name, array in STATE.items()}
    torch.save({"model": state}, folder / "a.pt", _use_new_zipfile_serialization=False)
    return folder / "a.pt", lambda: read_weights(folder / "a.pt")


def native(folder):
    save_network(network(), folder / "n.safetensors")
    return folder / "n.safetensors", lambda: weights_of(load_network(folder / "n.safetensors"))


def checkpoint(folder):
    flow_map = FlowMap(network(), averages=(0.9,))
    flow_map.save(folder / "step-00000001.keras")
    return (
        folder / "step-00000001.keras",
        lambda: weights_of(load_saved(folder / "step-00000001.keras")),
    )


def preset(folder, name):
    latent_map().save_to_preset(folder, codec=Identity(3))

    def load():
        codec = load_codec(folder)
        return weights_of(FlowMap.from_preset(folder)), codec.describe()

    return folder / name, load


def reference(folder, name="ref.npz"):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 4)).astype("f4")
    made = Reference(np.zeros(4), np.eye(4), 20, {"name": "x", "features": "f"}, features)
    made.save(folder / "ref.npz")

    def load():
        found = Reference.load(folder / "ref.npz")
        rows = None if found.features is None else np.array(found.features)
        return found.mean, found.covariance, found.count, found.protocol, rows

    return folder / name, load


def settings(folder):
    (folder / "settings.json").write_text(json.dumps(describe(), indent=2))
    return folder / "settings.json", lambda: (recorded_backend(folder), read_settings(folder))


def report(folder):
    protocol = {"name": "p", "features": "f", "resize": "none", "samples": 9, "labels": "none"}
    protocol |= {"rounding": "nearest", "reference": "r"}
    fid = {"value": 1.0, "interval": [0.5, 1.5], "infinity": 0.9}
    made = {"subject": "samples", "steps": 1, "nfe": 1, "warnings": [], "fid": fid}
    write_reports(folder / "e.json", [{**made, "protocol": protocol}])
    return folder / "e.json", lambda: read_reports(folder / "e.json")


def latents(folder):
    x = np.random.default_rng(0).standard_normal((9, 4, 4, 3)).astype("f4")
    source = ArraySource(x, np.arange(9) % 3)
    encode(source, folder / "s", Identity(3), measured=True, shard_size=4)

    def load():
        store = LatentStore(folder / "s")
        return store.take(np.arange(9)), store.draw([0, 1], np.random.default_rng(1)), len(store)

    return folder / "s" / "store.json", load


def pairs(folder):
    labels = np.arange(9) % 3
    flow_map = FlowMap(network(), averages=())
    reflow(flow_map, folder / "p", labels, sampler=Euler(steps=1), shard_size=4, batch_size=4)
    return folder / "p" / "pairs.json", lambda: PairStore(folder / "p").take(np.arange(9))


# name: (how the file is made, whether its numbers have a checksum, how often it is changed)
CASES = {
    "safetensors": (lambda f: containers(f, ".safetensors"), True, 400),
    "safetensors-foreign": (foreign_safetensors, False, 400),
    "network": (native, True, 100),
    "msgpack": (lambda f: containers(f, ".msgpack"), False, 400),
    "torch": (lambda f: containers(f, ".pt"), True, 400),
    "torch-old": (old_torch, False, 400),
    "npz": (lambda f: containers(f, ".npz"), True, 400),
    "checkpoint": (checkpoint, True, 60),
    "preset-weights": (lambda f: preset(f, "model.safetensors"), True, 60),
    "preset-config": (lambda f: preset(f, "config.json"), True, 60),
    "preset-codec": (lambda f: preset(f, "codec.keras"), True, 60),
    "preset-card": (lambda f: preset(f, "README.md"), True, 60),
    "reference": (reference, True, 400),
    "reference-features": (lambda f: reference(f, "ref.features.f32"), True, 200),
    "settings": (settings, False, 400),
    "report": (report, False, 400),
    "store": (latents, True, 200),
    "pairs": (pairs, True, 200),
}


def damaged(data, rng):
    """The bytes with one change."""
    at, length = int(rng.integers(len(data))), int(rng.integers(1, 9))
    new = rng.bytes(length)
    return {
        0: lambda: data[:at] + new[:1] + data[at + 1 :],
        1: lambda: data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :],
        2: lambda: data[:at] + data[at + length :],
        3: lambda: data[:at] + new + data[at:],
        4: lambda: data[:at],
        5: lambda: data[:at] + data[at : at + length] * 2 + data[at + length :],
    }[int(rng.integers(6))]()


WATCH = {"folder": None, "seen": []}
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen")
FORBIDDEN += ("socket.connect", "pickle.find_class", "marshal.loads")


def _watch(event, arguments):
    if WATCH["folder"] is None:
        return
    if event in FORBIDDEN and event != "marshal.loads":
        WATCH["seen"].append((event, arguments))
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path, mode, flags = arguments
        writes = any(c in (mode or "") for c in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
        place = Path(os.fsdecode(path)).resolve()
        allowed = (WATCH["folder"], Path(tempfile.gettempdir()).resolve(), Path("/dev"))
        if writes and not any(place.is_relative_to(one) for one in allowed):
            WATCH["seen"].append((event, str(place)))


@pytest.fixture(scope="module")
def hook():
    sys.addaudithook(_watch)  # stays until the process ends, and does nothing outside `watched`


@contextmanager
def watched(folder):
    WATCH["folder"], WATCH["seen"] = folder.resolve(), []
    try:
        yield WATCH["seen"]
    finally:
        WATCH["folder"] = None


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return str(a) == str(b)


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_gives_the_right_numbers_or_one_clear_error(name, tmp_path, hook):
    make, has_checksum, times = CASES[name]
    path, load = make(tmp_path)
    expected, data, files = load(), path.read_bytes(), listed(tmp_path)
    rng, wrong, errors = np.random.default_rng([SEED, *name.encode()]), [], 0
    with watched(tmp_path) as seen:
        for i in range(times):
            bad = damaged(data, rng)
            path.write_bytes(bad)
            try:
                found = load()
            except (ValueError, OSError) as error:
                errors += 1
                if "\n" in str(error) or not str(error):
                    wrong.append((i, f"not one line: {error}"))
            except Exception as error:
                wrong.append((i, f"{type(error).__name__}: {error}"))
            else:
                if has_checksum and not same(found, expected):
                    wrong.append((i, "other numbers"))
    assert wrong == [], f"{len(wrong)} of {times}: {wrong[:5]}"
    assert seen == [] and listed(tmp_path) == files
    assert errors or "card" in name
    keras.backend.clear_session()
