"""The joint laws of (r, t) and the rows that have r < t."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_meanflow.backend.random import Keys
from keras_meanflow.schedules import Line
from keras_meanflow.times import (
    LogitNormal,
    MaskedThenClamped,
    Uniform,
    count_r_below_t,
    indices_r_below_t,
    mask_r_below_t,
)

SAMPLERS = [LogitNormal(), Uniform(), MaskedThenClamped()]


def _draw(sampler, rows, step=0, progress=1.0):
    r, t = sampler.draw(Keys(seed=1, step=step, progress=progress), rows)
    return ops.convert_to_numpy(r), ops.convert_to_numpy(t)


@pytest.mark.parametrize("rows", [256, 29, 1])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.3, 0.5, 0.75, 1.0])
def test_the_count_of_rows_with_r_below_t_is_the_rounded_share(rows, share):
    count = count_r_below_t(rows, share)
    assert abs(count - rows * (1.0 - share)) <= 0.5
    expected = [i for i in range(rows) if (i + 1) * count // rows > i * count // rows]
    mask = ops.convert_to_numpy(mask_r_below_t(rows, count))
    np.testing.assert_array_equal(np.flatnonzero(mask), expected)
    if count:
        indices = ops.convert_to_numpy(indices_r_below_t(rows, count))
        np.testing.assert_array_equal(indices, expected)
    for sampler in (LogitNormal(fraction_r_equals_t=share), Uniform(fraction_r_equals_t=share)):
        r, t = _draw(sampler, rows)
        np.testing.assert_array_equal(r < t, mask)


def test_the_counts_are_those_of_the_published_shares():
    assert [count_r_below_t(256, s) for s in (0, 0.25, 0.3, 0.5, 0.75, 1)] == [
        256,
        192,
        179,
        128,
        64,
        0,
    ]


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_rows_with_r_below_t_are_spread_evenly_over_devices(shards):
    mask = ops.convert_to_numpy(mask_r_below_t(256, 64)).reshape(shards, -1)
    assert set(mask.sum(axis=1)) == {64 // shards}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: type(s).__name__)
def test_times_are_float32_ordered_and_in_the_unit_interval(sampler):
    r, t = _draw(sampler, 4096)
    assert r.dtype == t.dtype == np.float32
    assert np.all((0.0 <= r) & (r <= t) & (t <= 1.0))


def _all(sampler_class, **kwargs):
    sampler = sampler_class(fraction_r_equals_t=0.0, **kwargs)
    return np.concatenate([_draw(sampler, 4096, step) for step in range(16)], axis=1)


def test_logit_normal_pairs_are_the_larger_and_smaller_of_two_draws():
    r, t = _all(LogitNormal)

    def law(x):
        return stats.norm.cdf(np.log(x / (1.0 - x)) + 0.4)

    assert stats.kstest(t, lambda x: law(x) ** 2).pvalue > 1e-3
    assert stats.kstest(r, lambda x: 1.0 - (1.0 - law(x)) ** 2).pvalue > 1e-3


@pytest.mark.parametrize(
    ("sampler_class", "kwargs", "mean_gap"),
    [  # Monte Carlo with 4M draws in the notes on the seed paper
        (LogitNormal, {}, 0.2333),
        (LogitNormal, {"mean": -2.0, "std": 2.0}, 0.2577),
        (Uniform, {}, 1 / 3),
    ],
)
def test_the_mean_gap_is_the_known_one(sampler_class, kwargs, mean_gap):
    r, t = _all(sampler_class, **kwargs)
    assert np.mean(t - r) == pytest.approx(mean_gap, abs=0.003)


def test_the_cifar_sampler_clamps_a_fifteenth_of_the_rows_and_keeps_the_law_of_t():
    r, t = _all(MaskedThenClamped)
    assert np.mean(r == t) == pytest.approx(0.066, abs=0.004)
    assert np.mean((t - r)[r < t]) == pytest.approx(0.3824, abs=0.004)
    law = stats.kstest(t, lambda x: stats.norm.cdf((np.log(x / (1.0 - x)) + 0.6) / 1.6))
    assert law.pvalue > 1e-3


def test_a_scheduled_location_moves_with_progress():
    moving = LogitNormal(mean=Line(start=-2.0, end=0.5))
    for progress, mean in ((0.0, -2.0), (0.5, -0.75), (1.0, 0.5)):
        expected = _draw(LogitNormal(mean=mean), 64)
        np.testing.assert_allclose(_draw(moving, 64, progress=progress), expected, rtol=1e-6)


def test_a_share_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"share of rows, in \[0, 1\]. Received: 75"):
        LogitNormal(fraction_r_equals_t=75)
