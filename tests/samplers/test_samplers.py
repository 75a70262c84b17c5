"""Samplers on the Gaussian flow, whose map from noise to data is known."""

import numpy as np
import pytest
from keras import ops
from oracles import Gaussian

from keras_meanflow.samplers import (
    AdamsBashforth2,
    Euler,
    FixedSkips,
    Heun,
    Jump,
    Restart,
    shifted_times,
)

GAUSSIAN = Gaussian(mu=0.7, s=0.5)
NOISE = np.random.default_rng(0).standard_normal((5, 3, 2)).astype("float32")
EXACT = 0.7 + 0.5 * NOISE  # the monotone map of N(0, 1) onto N(mu, s^2)


def _error(sampler):
    return np.max(np.abs(ops.convert_to_numpy(sampler(GAUSSIAN, NOISE)) - EXACT))


@pytest.mark.parametrize(
    "sampler", [Jump(steps=1), Jump(steps=2), Jump(steps=17), Jump(times=(1.0, 0.6, 0.05, 0.0))]
)
def test_jumps_of_the_exact_u_are_exact_on_any_grid(sampler):
    assert _error(sampler) < 1e-5


@pytest.mark.parametrize(("sampler", "order"), [(Euler, 1), (Heun, 2), (AdamsBashforth2, 2)])
def test_solvers_converge_at_their_order(sampler, order):
    coarse, fine = _error(sampler(steps=32)), _error(sampler(steps=64))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_adams_bashforth_keeps_its_order_on_steps_that_grow():
    def grid(n):
        return tuple((1.0 - np.arange(n + 1) / n) ** 1.5)

    coarse, fine = (_error(AdamsBashforth2(times=grid(n))) for n in (32, 64))
    assert np.log2(coarse / fine) == pytest.approx(2.0, abs=0.25)


def test_adams_bashforth_is_the_textbook_formula_on_equal_steps():
    z, before = NOISE.astype("float64"), None
    for t in 1.0 - np.arange(10) / 10:
        v = GAUSSIAN.numpy(z, *[np.full(len(z), t)] * 2)
        z = z - 0.1 * (v if before is None else 1.5 * v - 0.5 * before)
        before = v
    ours = ops.convert_to_numpy(AdamsBashforth2(steps=10)(GAUSSIAN, NOISE))
    np.testing.assert_allclose(ours, z, atol=2e-6)


@pytest.mark.parametrize(
    "sampler",
    [
        Jump(steps=3),
        Euler(steps=4),
        Heun(steps=5),
        AdamsBashforth2(times=(1.0, 0.3, 0.0)),
        FixedSkips(steps=9, evaluated=(0, 1, 4, 8)),
        Restart(steps=1),
    ],
)
def test_a_sampler_says_how_often_it_calls_the_velocity(sampler):
    calls = []

    def v(z, r, t):
        calls.append(t)
        return 0.0 * z

    sampler(v, NOISE)
    assert len(calls) == sampler.calls


def test_heun_calls_the_velocity_at_both_ends_of_a_step():
    calls = []

    def v(z, r, t):
        calls.append((float(r[0]), float(t[0])))
        return 0.0 * z

    Heun(steps=2)(v, ops.convert_to_tensor(NOISE))
    assert calls == [(1.0, 1.0), (0.5, 0.5), (0.5, 0.5), (0.0, 0.0)]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_below_one_are_refused(steps):
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        Jump(steps=steps)


@pytest.mark.parametrize("times", [(1.0,), (0.9, 0.0), (1.0, 0.1), (1.0, 0.2, 0.4, 0.0)])
def test_a_grid_must_fall_from_one_to_zero(times):
    with pytest.raises(ValueError, match="times must"):
        Jump(times=times)


def test_a_restart_jumps_to_the_data_and_adds_the_noise_it_is_given():
    """With the exact u each jump is the monotone map of N(m_t, sigma_t^2) onto the data."""
    fresh = np.random.default_rng(1).standard_normal((2, *NOISE.shape)).astype("float32")
    z, grid = NOISE.astype("float64"), shifted_times(3, 1.5)
    for t, r, e in zip(grid, grid[1:], [*fresh, 0.0], strict=False):
        x = 0.7 + 0.5 * (z - (1.0 - t) * 0.7) / np.sqrt((1.0 - t) ** 2 * 0.25 + t**2)
        z = (1.0 - r) * x + r * e
    sampler = Restart(times=grid)
    assert (sampler.noises, sampler.calls) == (3, 3)
    np.testing.assert_allclose(ops.convert_to_numpy(sampler(GAUSSIAN, NOISE, *fresh)), z, atol=1e-5)
    with pytest.raises(ValueError, match="2 arrays of fresh noise .* Received: 0"):
        sampler(GAUSSIAN, NOISE)


def test_a_shift_moves_the_times_towards_the_noise():
    np.testing.assert_allclose(shifted_times(4, 1.0), [1.0, 0.75, 0.5, 0.25, 0.0])
    np.testing.assert_allclose(shifted_times(2, 1.5), [1.0, 0.6, 0.0])
    with pytest.raises(ValueError, match="shift > 0. Received: steps=2, shift=0"):
        shifted_times(2, 0)
