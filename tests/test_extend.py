"""The code of docs/extend/: its sampler, network and codec work as they stand there."""

import re
from pathlib import Path

import keras
import numpy as np
from keras import ops
from oracles import Gaussian

from keras_meanflow import FlowMap, MeanFlow
from keras_meanflow.data import LatentStore

PAGES = Path(__file__).resolve().parents[1] / "docs" / "extend"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text("utf-8"), re.M | re.S)


def names(page):
    found = {}
    exec(blocks(page)[0], found)
    return found


def test_the_sampler_of_the_page_converges():
    midpoint, gaussian = names("sampler.md")["Midpoint"], Gaussian(mu=0.7, s=0.5)
    noise = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")

    def error(steps):
        found = ops.convert_to_numpy(midpoint(steps=steps)(gaussian, noise))
        return np.max(np.abs(found - (0.7 + 0.5 * noise)))

    assert np.log2(error(16) / error(32)) > 1.75
    assert midpoint(steps=8).calls == 16


def test_the_network_of_the_page_trains_and_survives_its_config():
    dense = names("network.md")["Dense"]
    flow_map = FlowMap(dense(width=8), MeanFlow(label_dropout=0.0), averages=())
    flow_map.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    x = np.random.default_rng(0).standard_normal((8, 2)).astype("float32")
    flow_map.fit(x, batch_size=8, epochs=1, verbose=0)
    assert flow_map.generate(4, verbose=0).shape == (4, 2)
    assert dense.from_config(flow_map.network.get_config()).width == 8


def test_the_codec_of_the_page_trains_and_travels_with_its_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype("float32")
    found = {**names("codec.md"), "x": x}
    exec(blocks("codec.md")[1].replace("epochs=10", "epochs=1, verbose=0"), found)
    store = LatentStore("my-latents")
    assert store.shape == (2, 2, 8) and type(store.codec).__name__ == "Quarter"
    decoded = store.codec.decode(store.take([0])[0])
    reconstructed = ops.convert_to_numpy(found["codec"](x[:1]))
    np.testing.assert_allclose(decoded, reconstructed, atol=2e-2)  # the store is in half precision
