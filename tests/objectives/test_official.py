"""MeanFlow against the official JAX code on the same weights, data, noise and times.

`golden/official_meanflow.py` and `official_curve.py` wrote what it compares with, in float64.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from oracles import OFFICIAL, official_directions, official_draws, official_weights, relative_error

from keras_meanflow import DiT, FlowMap, Guidance, LogitNormal, MeanFlow
from keras_meanflow.backend import BACKEND
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives import Draws

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "official_meanflow.npz")
CURVE = np.load(Path(__file__).parents[1] / "golden" / "official_curve.npz")
WEIGHTS = [w.reshape(-1, w.shape[-1]) if w.ndim == 4 else w for w in official_weights()]


def _network():
    sizes = "image_size channels patch_size width depth heads num_classes".split()
    network = DiT(**{name: OFFICIAL[name] for name in sizes})
    for variable, value in zip(network.trainable_variables, WEIGHTS, strict=True):
        variable.assign(value)
    return network


def test_the_networks_output_is_the_official_ones():
    draws = official_draws()
    labels = np.where(draws["drop"], OFFICIAL["num_classes"], draws["labels"])
    u = _network()(draws["x"], draws["r"], draws["t"], labels)
    assert relative_error(ops.convert_to_numpy(u), GOLDEN["u"]) < 3e-6


class Recorder(keras.optimizers.SGD):
    """Plain gradient descent with rate 1: the weights' movement is the gradient."""

    def __init__(self):
        super().__init__(learning_rate=1.0)


class SameDraws(MeanFlow):
    """MeanFlow whose draws are the stored ones."""

    def draw(self, keys, x, condition=None):
        draws = official_draws()
        return Draws(*(ops.convert_to_tensor(draws[name]) for name in ("r", "t", "e", "drop")))


COMPILED = {"jax": list(OFFICIAL["guidances"]), "tensorflow": ["kappa"], "torch": []}[BACKEND]
CASES = [(name, True) for name in COMPILED]
CASES += [(name, False) for name in OFFICIAL["guidances"] if BACKEND != "jax"]


@pytest.mark.parametrize(("name", "jit"), CASES)
def test_loss_and_every_gradient_are_the_official_ones_through_fit(name, jit):
    omega, kappa, start, end = OFFICIAL["guidances"][name]
    guidance = Guidance(omega=omega, kappa=kappa, start=start, end=end) if name != "none" else None
    flow_map = FlowMap(_network(), SameDraws(guidance=guidance), averages=())
    flow_map.compile(Recorder(), jit_compile=jit)
    draws = official_draws()
    rows = OFFICIAL["rows"]
    history = flow_map.fit(draws["x"], draws["labels"], batch_size=rows, verbose=0, shuffle=False)
    index = list(OFFICIAL["guidances"]).index(name)
    assert history.history["loss"][0] == pytest.approx(GOLDEN["loss"][index], rel=1e-5)

    moved = [ops.convert_to_numpy(v.value) for v in flow_map.network.trainable_variables]
    expected = GOLDEN["gradients"][index * len(WEIGHTS) : (index + 1) * len(WEIGHTS)]
    largest = max(norm for norm, *_ in expected)
    for before, after, directions, (norm, *products) in zip(
        WEIGHTS, moved, official_directions(), expected, strict=True
    ):
        gradient = (before - after).astype("float64").reshape(directions.shape[1:])
        length = np.linalg.norm(directions[0])
        # Rounding of the subtraction adds eps |w|, which counts where the gradient is small.
        slack = 1e-7 * np.linalg.norm(before)
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=2e-5, abs=slack + 1e-7 * largest)
        found = np.tensordot(directions, gradient, gradient.ndim)
        np.testing.assert_allclose(
            found / length, np.array(products) / length, rtol=0, atol=2e-5 * norm + slack
        )


class DrawsOfSteps(MeanFlow):
    """MeanFlow whose draws of a step are the stored ones of that step."""

    def draw(self, keys, x, condition=None):
        steps = [official_draws(step) for step in range(len(CURVE["none"]))]
        stacked = (np.stack([draws[name] for draws in steps]) for name in ("r", "t", "e", "drop"))
        return Draws(*(ops.take(draws, keys.step, axis=0) for draws in stacked))


@pytest.mark.long
@pytest.mark.parametrize("name", ["none", "kappa"])
def test_fifty_steps_of_adam_have_the_official_losses(name):
    omega, kappa, *_ = OFFICIAL["guidances"][name]
    guidance = Guidance(omega=omega, kappa=kappa) if name != "none" else None
    flow_map = FlowMap(_network(), DrawsOfSteps(guidance=guidance), averages=())
    adam = keras.optimizers.Adam(1e-3, beta_2=0.95, epsilon=1e-8)
    flow_map.compile(adam, jit_compile=BACKEND != "torch")
    steps = (official_draws(step) for step in range(len(CURVE[name])))
    batches = ((draws["x"], draws["labels"]) for draws in steps)
    each = dict(steps_per_epoch=1, epochs=len(CURVE[name]), verbose=0)
    history = flow_map.fit(batches, **each).history
    losses, errors = CURVE[name].T
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    if guidance is None:  # with it the official code measures the error before the guidance
        np.testing.assert_allclose(history["v_error"], errors, rtol=1e-3)
        assert errors[-1] < 0.9 * errors[0]


def test_the_golden_draws_have_r_below_t_where_the_sampler_puts_them():
    draws = official_draws()
    r, t = LogitNormal().draw(Keys(seed=0, step=0), OFFICIAL["rows"])
    np.testing.assert_array_equal(ops.convert_to_numpy(r < t), draws["r"] < draws["t"])
