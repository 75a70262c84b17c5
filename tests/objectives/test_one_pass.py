"""Prediction and du/dt from one pass: the loss, gradients and logs of two passes, for less."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import randomise

from keras_meanflow.backend import BACKEND
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.networks import DiT
from keras_meanflow.objectives import MeanFlow, NoisyVelocity
from keras_meanflow.objectives.guidance import Guidance
from keras_meanflow.parts.part import part
from keras_meanflow.parts.schedules import Line
from keras_meanflow.parts.time_laws import LogitNormal, MaskedThenClamped

ROWS = 8
SIZES = dict(image_size=4, channels=3, patch_size=2, width=16, depth=1, heads=2, num_classes=3)


@part
class TwoPasses(MeanFlow):
    """The same objective, but as a subclass, which may have another target."""


def _data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 4, 4, 3)).astype("float32")
    return x, (np.arange(ROWS) % 3).astype("int32")


def _step(objective, rows=ROWS, **sizes):
    """The logs of a step, the weights after it, and the gradients that it took."""
    network = randomise(DiT(**SIZES, **sizes))
    flow_map = FlowMap(network, objective, averages=(), horizon=4)
    flow_map.compile(keras.optimizers.SGD(1.0))
    before = network.get_weights()
    x, y = _data()
    logs = flow_map.train_on_batch(x[:rows], y[:rows], return_dict=True)
    gradients = [b - a for b, a in zip(before, network.get_weights(), strict=True)]
    return {name: float(value) for name, value in logs.items()}, gradients


OBJECTIVES = {
    "f=1": dict(times=LogitNormal(fraction_r_equals_t=0.0)),
    "guided": dict(times=LogitNormal(fraction_r_equals_t=0.25), guidance=Guidance()),
    "scheduled": dict(times=LogitNormal(fraction_r_equals_t=Line(start=0.9, end=0.25))),
}


LONG = {"scheduled": pytest.mark.long}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=LONG.get(name, ())) for name in OBJECTIVES]
)
def test_one_pass_gives_the_loss_and_the_gradients_of_two(name):
    rows = 7 if name == "scheduled" else ROWS  # of no common divisor with the count
    one, gradients = _step(MeanFlow(**OBJECTIVES[name]), rows, qk_norm=name == "guided")
    two, expected = _step(TwoPasses(**OBJECTIVES[name]), rows, qk_norm=name == "guided")
    assert set(one) == set(two)
    for log, value in two.items():
        assert one[log] == pytest.approx(value, rel=1e-5), log
    scale = max(np.abs(g).max() for g in expected)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_training_alone_takes_one_pass_and_noise_on_the_velocity_goes_along():
    objective = NoisyVelocity(objective=MeanFlow(times=MaskedThenClamped()), k=0.1)
    flow_map = FlowMap(DiT(**SIZES), objective)
    x, _ = flow_map.build_problem(_data(), training=True).as_data()[:2]
    assert x["tangent"].shape == (6, 4, 4, 3)
    assert flow_map.build_problem(_data(), training=False).tangent is None


@pytest.mark.skipif(BACKEND != "torch", reason="counts PyTorch's operations")
@pytest.mark.parametrize("share, cost", [(0.75, 3.5), (0.25, 3.75), (0.0, 4.0)])
def test_a_step_costs_3_and_2f_forward_passes_or_3_and_f(share, cost):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    sizes = {**SIZES, "width": 64, "image_size": 8, "num_classes": None}
    flow_map = FlowMap(DiT(**sizes), MeanFlow(times=LogitNormal(fraction_r_equals_t=share)))
    flow_map.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    x = ops.convert_to_tensor(np.zeros((ROWS, 8, 8, 3), "float32"))
    t = ops.ones((ROWS,))
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            flow_map.network(x, t, t)
        with FlopCounterMode(display=False) as step:
            flow_map.train_step((x,))
    # No gradient flows into the first layer's input; products of q and k have two derivatives.
    assert step.get_total_flops() / forward.get_total_flops() == pytest.approx(cost, abs=0.07)
