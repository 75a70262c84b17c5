"""A DDPM's noise predictor as a velocity: against closed forms and the DDPM's formulas."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import Gaussian, central_difference, randomise, relative_error

from keras_meanflow.backend import jvp
from keras_meanflow.networks import DiT, Network, NoisePrediction

SMALL = {"image_size": 8, "channels": 3, "patch_size": 2, "width": 24, "depth": 1, "heads": 3}
DIT = {**SMALL, "num_classes": 5, "time_inputs": ("t",), "time_scale": 1000.0}
ALPHAS_BAR = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000, dtype="float64"))
LOG_RATIOS = 0.5 * np.log(ALPHAS_BAR / (1.0 - ALPHAS_BAR))
STEP_TIMES = 1.0 / (1.0 + np.exp(LOG_RATIOS))  # (1 - t) / t = a / b


class GaussianNoise(Network):
    """`E[e | x_s]` for data N(mu, s^2), between two steps of the DDPM by its log ratio."""

    def __init__(self, mu=0.7, std=0.5):
        super().__init__(data_shape=(3,))
        self.mu, self.std, self.built = mu, std, True

    def call(self, x, r, t, condition=None):
        steps = ops.clip(1000.0 * t[:, None] - ops.arange(999, dtype="float32"), 0.0, 1.0)
        falls = ops.convert_to_tensor(np.diff(LOG_RATIOS).astype("float32")[None])
        ratio = ops.exp(float(LOG_RATIOS[0]) + ops.sum(steps * falls, axis=1, keepdims=True))
        b = 1.0 / ops.sqrt(1.0 + ratio**2)
        a = ratio * b
        return b * (x - a * self.mu) / (a**2 * self.std**2 + b**2)


def rows(times):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((len(times), 3)).astype("float32")
    return z, np.asarray(times, "float32")


def both(t):
    """The wrapper's velocity and the exact one at times t."""
    z, t = rows(t)
    found = NoisePrediction(GaussianNoise())(z, t, t)
    return ops.convert_to_numpy(found), Gaussian().numpy(z, t, t), z


def test_on_exact_noise_of_a_gaussian_it_is_the_exact_velocity():
    found, exact, _ = both(np.linspace(0.01, 0.9936, 200))
    assert np.abs(found - exact).max() < 1e-3
    found, exact, _ = both(np.linspace(0.01, 0.9, 200))
    assert np.abs(found - exact).max() < 5e-5


def test_beyond_the_steps_of_the_ddpm_it_is_as_accurate_as_the_last_step_allows():
    found, exact, _ = both([0.0])
    np.testing.assert_allclose(found, exact, atol=1e-5)
    found, exact, _ = both(np.linspace(0.0, 0.0099, 20))
    assert np.abs(found - exact).max() < 5e-4
    found, exact, z = both(np.linspace(0.9937, 1.0, 20))
    # The last step's signal is 0.0064 of its noise, and correlates with the data by s^2 times that.
    assert np.all(np.abs(found - exact) < 0.5**2 * 0.0065 * np.abs(z) + 1e-4)


def test_it_is_continuous_at_the_first_and_the_last_step():
    for edge in STEP_TIMES[[0, -1]]:
        z, _ = rows([0.0])
        t = np.array([edge - 1e-6, edge, edge + 1e-6], "float32")
        found = ops.convert_to_numpy(NoisePrediction(GaussianNoise())(np.repeat(z, 3, 0), t, t))
        assert np.abs(np.diff(found, axis=0)).max() < 2e-3


def test_its_clock_is_the_step_of_equal_signal_to_noise_ratio():
    wrapper = NoisePrediction(GaussianNoise())
    clock = ops.convert_to_numpy(wrapper.clock(ops.convert_to_tensor(STEP_TIMES.astype("float32"))))
    np.testing.assert_allclose(1000.0 * clock, np.arange(1000), atol=2e-3)
    ends = ops.convert_to_numpy(wrapper.clock(ops.convert_to_tensor([0.0, 1.0])))
    np.testing.assert_allclose(ends, [0.0, 0.999], rtol=1e-6)


def test_at_the_steps_of_the_ddpm_it_is_the_ddpms_data_and_noise():
    """`x = (x_s - b e) / a` and `v = e - x` in float64, with DiT called at whole steps."""
    dit = randomise(DiT(**DIT))
    steps = np.array([0, 3, 100, 500, 900])
    a, b = (np.sqrt(p)[:, None, None, None] for p in (ALPHAS_BAR[steps], 1 - ALPHAS_BAR[steps]))
    rng = np.random.default_rng(1)
    x_s = rng.standard_normal((5, 8, 8, 3))
    labels = np.array([0, 5, 2, 3, 1], "int32")
    e = ops.convert_to_numpy(dit(*_call(x_s, steps / 1000.0, labels))).astype("float64")
    v = e - (x_s - b * e) / a
    t = STEP_TIMES[steps]
    z = x_s * np.sqrt((1 - t) ** 2 + t**2)[:, None, None, None]
    found = ops.convert_to_numpy(NoisePrediction(dit)(*_call(z, t, labels)))
    for one, other in zip(found, v, strict=True):
        assert relative_error(one, other) < 1e-4


def _call(z, t, labels):
    t = t.astype("float32")
    return z.astype("float32"), t, t, labels


def test_its_derivative_along_the_path_is_that_of_the_exact_velocity():
    """At times inside a step, where the interpolated clock is smooth."""
    z, t = rows([0.05, 0.2, 0.5, 0.8, 0.95])
    t = t + np.float32(1e-5)
    wrapper, exact = NoisePrediction(GaussianNoise()), Gaussian()
    v = exact.numpy(z, t, t).astype("float32")
    arrays = [ops.convert_to_tensor(a) for a in (z, t, v, np.ones_like(t))]
    _, found = jvp(lambda z, t: wrapper(z, t, t), arrays[:2], arrays[2:])
    z, t, v = (a.astype("float64") for a in (z, t, v))
    expected = central_difference(lambda z, t: exact.numpy(z, t, t), (z, t), (v, np.ones_like(t)))
    assert relative_error(ops.convert_to_numpy(found), expected) < 1e-3


def test_it_is_saved_and_loaded_with_its_network(tmp_path):
    wrapper = NoisePrediction(randomise(DiT(**DIT)))
    wrapper.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    z, t = rows([0.0, 0.3, 1.0])
    arguments = np.resize(z, (3, 8, 8, 3)), t, t, np.array([0, 5, 2], "int32")
    np.testing.assert_array_equal(*(ops.convert_to_numpy(n(*arguments)) for n in (wrapper, loaded)))
    assert (loaded.betas, loaded.steps) == (wrapper.betas, wrapper.steps)
    with pytest.raises(ValueError, match="Received: \\[6\\]"):
        wrapper.check_condition(np.array([0, 6]))
