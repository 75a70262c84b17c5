"""Checks that take minutes: `make check-long`."""

import keras
import numpy as np
import pytest
from oracles import randomise

from keras_meanflow import DiT, FlowMap, Guidance, MeanFlow

pytestmark = pytest.mark.long


def _fit(**compiling):
    keras.utils.set_random_seed(1)
    network = DiT(
        image_size=8, channels=1, patch_size=2, width=32, depth=2, heads=2, num_classes=10
    )
    flow_map = FlowMap(randomise(network), MeanFlow(guidance=Guidance()), averages=(0.9,))
    flow_map.compile(keras.optimizers.SGD(1e-3), **compiling)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((96, 8, 8, 1)).astype("float32"), np.arange(96) % 10
    history = flow_map.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
    evaluated = flow_map.evaluate(x, y, verbose=0, return_dict=True)
    return history.history, evaluated, flow_map.generate(np.arange(10), steps=2, verbose=0)


def test_the_compiled_step_trains_as_the_eager_one():
    logs, evaluated, samples = _fit(jit_compile=True)
    eager_logs, eager_evaluated, eager_samples = _fit(run_eagerly=True, jit_compile=False)
    for name, values in logs.items():
        np.testing.assert_allclose(values, eager_logs[name], rtol=1e-3)
    for name, value in evaluated.items():
        assert value == pytest.approx(eager_evaluated[name], rel=1e-3)
    np.testing.assert_allclose(samples, eager_samples, atol=1e-3)
