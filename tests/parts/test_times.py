"""The joint laws of (r, t) and the rows that have r < t."""

import numpy as np
import pytest
from keras import ops
from scipy import stats

from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.easy_first import (
    EasyFirst,
    EasyFirstInterval,
    EasyFirstOnDiagonal,
    Plateau,
)
from keras_meanflow.parts.gap_laws import ShapedGap
from keras_meanflow.parts.lattice import Lattice
from keras_meanflow.parts.rows import count_r_below_t, indices_r_below_t, mask_r_below_t
from keras_meanflow.parts.schedules import Line, Steps
from keras_meanflow.parts.time_laws import (
    DiagonalLogitNormal,
    LogitNormal,
    MaskedThenClamped,
    TwoLogitNormals,
    Uniform,
)

SAMPLERS = [LogitNormal(), Uniform(), MaskedThenClamped(), TwoLogitNormals(), DiagonalLogitNormal()]


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


def test_two_logit_normals_are_ordered_and_a_diagonal_one_is_a_single_draw():
    def law(x, mean):
        return stats.norm.cdf(np.log(x / (1.0 - x)) - mean)

    r, t = _all(TwoLogitNormals)
    assert stats.kstest(t, lambda x: law(x, 0.4) * law(x, -1.2)).pvalue > 1e-3
    assert stats.kstest(r, lambda x: 1 - (1 - law(x, 0.4)) * (1 - law(x, -1.2))).pvalue > 1e-3
    r, t = _draw(DiagonalLogitNormal(mean=0.3), 1 << 14)
    np.testing.assert_array_equal(r, t)
    assert stats.kstest(t, lambda x: law(x, 0.3)).pvalue > 1e-3


def test_a_scheduled_location_moves_with_progress():
    moving = LogitNormal(mean=Line(start=-2.0, end=0.5))
    for progress, mean in ((0.0, -2.0), (0.5, -0.75), (1.0, 0.5)):
        expected = _draw(LogitNormal(mean=mean), 64)
        np.testing.assert_allclose(_draw(moving, 64, progress=progress), expected, rtol=1e-6)


def test_a_share_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"share of rows, in \[0, 1\]. Received: 75"):
        LogitNormal(fraction_r_equals_t=75)


@pytest.mark.parametrize("rows", [256, 29, 1])
def test_a_scheduled_share_is_exact_at_every_progress_within_static_rows(rows):
    moving = LogitNormal(fraction_r_equals_t=Line(start=1.0, end=0.3))
    most = moving.count_derived(rows)
    candidates = ops.convert_to_numpy(mask_r_below_t(rows, most))
    assert most == round(0.7 * rows)
    for progress in (0.0, 0.2, 0.5, 0.77, 1.0):
        r, t = _draw(moving, rows, progress=progress)
        assert abs((r < t).sum() - rows * 0.7 * progress) <= 0.5 + 1e-3
        assert not np.any((r < t) & ~candidates)
    # Full and static shares draw the same.
    np.testing.assert_array_equal(r, _draw(LogitNormal(fraction_r_equals_t=0.3), rows)[0])


def test_scheduled_shares_stay_in_the_unit_interval():
    with pytest.raises(ValueError, match="share of rows"):
        LogitNormal(fraction_r_equals_t=Line(start=0.5, end=1.5))
    assert (
        LogitNormal(fraction_r_equals_t=Steps(values=(1.0, 0.5), at=(0.5,))).count_derived(8) == 4
    )


MEAN_GAPS = [  # notes of the paper: lambda = 1 / (1 - E[gap]), by 4 M draws
    (LogitNormal(), 1.3043),
    (LogitNormal(mean=-2.0, std=2.0), 1.3472),
    (MaskedThenClamped(), 1.6193),
    (Uniform(), 1.5),
]


@pytest.mark.parametrize("sampler, expected", MEAN_GAPS)
def test_lambda_is_that_of_the_sampler_in_use(sampler, expected):
    (gap,) = sampler.mean_gaps()
    assert 1.0 / (1.0 - gap) == pytest.approx(expected, abs=6e-4)


def test_the_mean_gap_of_a_logit_normal_is_its_integral():
    def density(x):
        return stats.norm.pdf(np.log(x / (1 - x)), -0.4, 1.0) / (x * (1 - x))

    grid = (np.arange(20_000) + 0.5) / 20_000
    cdf = np.cumsum(density(grid)) / 20_000
    exact = 2.0 * np.mean(cdf * (1.0 - cdf))  # Gini's mean difference
    assert LogitNormal().mean_gaps()[0] == pytest.approx(exact, abs=2e-4)


def test_the_mean_gap_of_a_scheduled_law_is_tabulated_over_progress():
    moving = LogitNormal(mean=Line(start=-2.0, end=-0.4))
    table = moving.mean_gaps()
    for progress in (0.0, 0.3, 0.505, 1.0):
        (now,) = LogitNormal(mean=-2.0 + 1.6 * progress).mean_gaps()
        assert float(moving.look_up(table, progress, {})) == pytest.approx(now, abs=1e-4)


def _points(sampler, stage=0, progress=1.0):
    """r and t at the points of the lattice, with r < t on all rows."""
    lattice = Lattice(progress, {"stage": stage})
    r, t = sampler.pair(lattice, lattice.rows, ops.ones(lattice.rows, "bool"))
    return ops.convert_to_numpy(r), ops.convert_to_numpy(t)


@pytest.mark.parametrize("exponent, largest", [(1.0, 1.0), (3.0, 1.0), (0.5, 0.4)])
def test_a_shaped_gap_is_the_stated_function_of_the_old_one(exponent, largest):
    r, t = _points(LogitNormal())
    shaped, same_t = _points(ShapedGap(exponent=exponent, largest=largest))
    expected = np.minimum(t * ((t - r) / t) ** exponent, largest)
    np.testing.assert_array_equal(same_t, t)
    np.testing.assert_allclose(same_t - shaped, expected, atol=2e-6)


EASY = EasyFirst(pacing=Plateau(stages=4, patience=2))


@pytest.mark.parametrize("stage", range(4))
def test_a_stage_draws_t_from_the_easiest_parts_by_the_law_restricted_to_them(stage):
    threshold = 1.0 - (stage + 1) / 4
    r, t = _points(EASY, stage)
    _, all_t = _points(LogitNormal())
    assert t.min() >= threshold - 1e-6
    shares = np.linspace(0.02, 0.98, 25)
    expected = np.quantile(all_t[all_t >= threshold], shares)
    np.testing.assert_allclose(np.quantile(t, shares), expected, atol=2e-3)


def test_the_last_stage_has_the_law_of_the_logit_normal():
    (r, t), (other_r, other_t) = _points(EASY, 3), _points(LogitNormal())
    shares = np.linspace(0.01, 0.99, 25)
    np.testing.assert_allclose(np.quantile(r, shares), np.quantile(other_r, shares), atol=1e-3)
    gaps = np.quantile(t - r, shares), np.quantile(other_t - other_r, shares)
    np.testing.assert_allclose(*gaps, atol=1e-3)
    assert EASY.mean_gaps()[-1] == pytest.approx(LogitNormal().mean_gaps()[0], abs=1e-4)


READINGS = [EasyFirst, EasyFirstOnDiagonal, EasyFirstInterval]


@pytest.mark.parametrize("stage", range(4))
def test_the_three_readings_of_easy_first_differ_in_what_they_restrict(stage):
    """Rows with r = t are alike in all; t of rows with r < t, and r, differ as stated."""
    threshold = 1.0 - (stage + 1) / 4
    laws = [law(pacing=Plateau(stages=4)) for law in READINGS]
    equal = [law.even_pairs(1.0, {"stage": stage}, below=False)[1] for law in laws]
    for t in equal:
        np.testing.assert_array_equal(t, equal[0])
        assert t.min() >= threshold - 1e-6
    (r, t), (free_r, free_t), (near_r, near_t) = (
        law.even_pairs(1.0, {"stage": stage}) for law in laws
    )
    np.testing.assert_array_equal(t, near_t)
    all_r, all_t = LogitNormal().even_pairs()
    shares = np.linspace(0.02, 0.98, 25)
    for free, whole in ((free_t, all_t), (free_r, all_r), (free_t - free_r, all_t - all_r)):
        np.testing.assert_allclose(np.quantile(free, shares), np.quantile(whole, shares), atol=2e-3)
    assert near_r.min() >= threshold - 1e-6
    if stage < 3:
        assert r.min() < threshold and free_t.min() < threshold
    # Given t, r is one draw of the law restricted to [threshold, t]: by rejection from `EasyFirst`.
    kept = r >= threshold
    inside = (t > 0.8) & (t < 0.82)
    np.testing.assert_allclose(
        np.quantile(near_r[inside], shares), np.quantile(r[inside & kept], shares), atol=0.02
    )


def test_at_the_first_stage_of_20_gaps_are_long_unless_r_is_restricted_too():
    gaps = [law(pacing=Plateau(stages=20)).mean_gaps() for law in READINGS]
    assert gaps[0][0] == pytest.approx(0.54, abs=0.02)
    assert gaps[1][0] == pytest.approx(LogitNormal().mean_gaps()[0], abs=1e-3)
    assert gaps[2][0] < 0.03
    assert [table[-1] for table in gaps] == pytest.approx(
        [LogitNormal().mean_gaps()[0]] * 3, abs=1e-3
    )


def test_stages_follow_when_the_smoothed_error_stops_improving():
    """Against a plain simulation, on errors that fall and stall."""
    errors = np.abs(np.sin(np.arange(60.0))) + np.exp(-np.arange(60.0) / 9.0)
    plateau = Plateau(stages=4, patience=3, smoothing=0.5)
    state = (0, 0, -1.0, 0.0)
    stage, bad, smooth, best = 0, 0, None, None
    for error in errors:
        now = tuple(ops.convert_to_tensor(v, d) for v, d in zip(state, DTYPES, strict=True))
        state = tuple(float(ops.convert_to_numpy(v)) for v in plateau(np.float32(error), now))
        smooth = error if smooth is None else 0.5 * smooth + 0.5 * error
        if best is None or smooth < best:
            best, bad = smooth, 0
        else:
            bad += 1
        if bad >= 3 and stage < 3:
            stage, bad, smooth, best = stage + 1, 0, None, None
        assert state[:2] == (stage, bad)
        assert state[2] == pytest.approx(-1.0 if smooth is None else smooth, rel=1e-5)
    assert stage == 3


DTYPES = ("int32", "int32", "float32", "float32")
