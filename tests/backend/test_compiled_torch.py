"""PyTorch's compiled step: the network's calls, with gradient and inside forward mode."""

import keras
import numpy as np
import pytest
from oracles import randomise

from keras_meanflow import DiT, FlowMap, Guidance, LogitNormal, MeanFlow
from keras_meanflow.backend import BACKEND

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(BACKEND != "torch", reason="PyTorch compiles the network's calls"),
]


def _train(objective, jit_compile, **network):
    keras.utils.set_random_seed(1)
    sizes = dict(image_size=4, channels=2, patch_size=2, width=16, depth=1, heads=2, num_classes=3)
    flow_map = FlowMap(randomise(DiT(**sizes, **network)), objective, averages=(0.9,))
    flow_map.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    x = np.random.default_rng(0).standard_normal((32, 4, 4, 2)).astype("float32")
    fitted = dict(batch_size=8, epochs=2, shuffle=False, verbose=0)
    history = flow_map.fit(x, (np.arange(32) % 3).astype("int32"), **fitted).history
    return history, flow_map


OBJECTIVES = {
    "guided": MeanFlow(times=LogitNormal(fraction_r_equals_t=0.75), guidance=Guidance()),
    "one pass": MeanFlow(times=LogitNormal(fraction_r_equals_t=0.25)),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_the_compiled_step_has_the_losses_of_the_eager_one(objective):
    compiled, flow_map = _train(objective, True, remat=True)
    eager, same = _train(objective, False)
    for name, values in eager.items():
        np.testing.assert_allclose(compiled[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    pairs = zip(flow_map.network.get_weights(), same.network.get_weights(), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert len(flow_map.field._compiled._products) == 1
