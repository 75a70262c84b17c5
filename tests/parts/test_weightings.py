"""Weights of rows: their values, and their means over the laws of (r, t)."""

import numpy as np
import pytest
from keras import ops
from scipy import integrate, stats

from keras_meanflow import MeanFlow
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives.problem import Draws
from keras_meanflow.parts import (
    EasyFirst,
    EasyFirstInterval,
    EasyFirstOnDiagonal,
    FallingGap,
    Line,
    LogitNormal,
    MinSNRData,
    MinSNRNoise,
    MinSNRVelocity,
    Plateau,
    ProgressiveGap,
    ShapedGap,
    Uniform,
)

T = np.array([0.0, 0.05, 0.25, 0.309, 0.6, 1.0])
STAGES = Plateau(stages=4)
ALPHAS = [MinSNRVelocity(), MinSNRData(), MinSNRNoise()]
LAWS = [
    LogitNormal(),
    Uniform(),
    ShapedGap(exponent=3.0),
    LogitNormal(mean=Line(start=-3.0, end=0.0)),
    EasyFirst(pacing=STAGES),
    EasyFirstOnDiagonal(pacing=STAGES),
    EasyFirstInterval(pacing=STAGES),
]


def _numpy(array):
    return ops.convert_to_numpy(ops.convert_to_tensor(array)).astype("float64")


def _snr(t):
    with np.errstate(divide="ignore"):
        return np.minimum(((1.0 - t) / t) ** 2, 1e30)


@pytest.mark.parametrize("alpha, expected", [
    (MinSNRVelocity(), lambda t: np.minimum(_snr(t), 5.0) / (_snr(t) + 1.0)),
    (MinSNRData(scale=2.0), lambda t: 2.0 * t**2 * np.minimum(_snr(t), 5.0)),
    (MinSNRNoise(), lambda t: np.minimum(1.0, 5.0 / np.maximum(_snr(t), 1e-30))),
    (MinSNRNoise(gamma=2.0), lambda t: np.minimum(1.0, 2.0 / np.maximum(_snr(t), 1e-30))),
])  # fmt: skip
def test_min_snr_weights_are_the_stated_functions_of_the_snr(alpha, expected):
    value = _numpy(alpha(ops.convert_to_tensor(T.astype("float32")), 0.3, 0.0))
    np.testing.assert_allclose(value, expected(T), atol=1e-6)


def test_the_weight_of_temf_is_the_stated_function_of_the_gap():
    value = _numpy(FallingGap()(ops.convert_to_tensor(T.astype("float32")), 0.3, 0.0))
    np.testing.assert_allclose(value, 1.0 / ((1.0 + 0.5 * T) * np.sqrt(1.0 + T**2)), rtol=1e-6)


def _larger_of_two(density, cdf):
    return lambda t: 2.0 * density(t) * cdf(t)


DENSITIES = {
    "LogitNormal": _larger_of_two(
        lambda t: stats.norm.pdf(np.log(t / (1 - t)), -0.4, 1.0) / (t * (1 - t)),
        lambda t: stats.norm.cdf(np.log(t / (1 - t)), -0.4, 1.0),
    ),
    "Uniform": _larger_of_two(lambda t: 1.0, lambda t: t),
}
KNOWN = {"MinSNRVelocity": 0.399, "MinSNRData": 0.215, "MinSNRNoise": 0.947}  # LogitNormal(-0.4, 1)


@pytest.mark.parametrize("law", [LogitNormal(), Uniform()], ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("alpha", ALPHAS, ids=lambda alpha: type(alpha).__name__)
def test_the_tabulated_mean_of_alpha_is_its_integral_over_the_law(alpha, law):
    density = DENSITIES[type(law).__name__]

    def integrand(t):
        return density(t) * float(alpha.shape(ops.convert_to_tensor([t], "float32"))[0])

    exact, _ = integrate.quad(integrand, 1e-6, 1.0 - 1e-6, limit=200)
    (mean,) = MeanFlow(times=law, alpha=alpha)._means["alpha"]
    assert mean == pytest.approx(exact, abs=3e-4)
    if isinstance(law, LogitNormal):
        assert mean == pytest.approx(KNOWN[type(alpha).__name__], abs=6e-4)


def _moments(law):
    """(progress, state) over which the law moves."""
    stages = [(1.0, {"stage": stage}) for stage in range(law.stages)]
    return stages if law.stages > 1 else [(p, {}) for p in (0.0, 0.35, 1.0)]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
@pytest.mark.parametrize("alpha", ALPHAS, ids=lambda alpha: type(alpha).__name__)
def test_normalised_weights_have_mean_one_throughout_training(law, alpha):
    alpha = type(alpha)(normalise=True)
    objective = MeanFlow(times=law, alpha=alpha, beta=ProgressiveGap())
    for progress, state in _moments(law):
        for name, below in (("alpha", False), ("beta", True)):
            r, t = law.even_pairs(progress, state, below=below)
            rows = (r < t) == below
            r, t = (ops.convert_to_tensor(times[rows]) for times in (r, t))
            mean_shape = law.look_up(objective._means[name], progress, state)
            weight = getattr(objective, name)(t if name == "alpha" else t - r, mean_shape, progress)
            assert _numpy(weight).mean() == pytest.approx(1.0, abs=2e-3)


def _shares(objective, rows=4096, progress=0.3, seed=0):
    """The mean weight, and the share of the weight on rows with r = t."""
    keys = Keys(seed=seed, step=0, progress=progress, state={"stage": 1})
    r, t = objective.times.draw(keys, rows)
    weight = _numpy(objective.weight(Draws(r, t, None, None, progress, {"stage": 1})))
    equal = _numpy(r) == _numpy(t)
    return weight.mean(), weight[equal].sum() / weight.sum()


@pytest.mark.parametrize("fraction", [0.75, 0.5, Line(start=0.9, end=0.1)])
@pytest.mark.parametrize("law", [LogitNormal, EasyFirstInterval], ids=lambda law: law.__name__)
@pytest.mark.parametrize("beta", [None, ProgressiveGap(), FallingGap()])
@pytest.mark.parametrize("alpha", [None, MinSNRNoise(), MinSNRVelocity(scale=3.0)])
def test_v_share_is_the_share_of_the_weight_on_rows_r_equal_t(alpha, beta, law, fraction):
    times = law(fraction_r_equals_t=fraction)
    objective = MeanFlow(times=times, alpha=alpha, beta=beta, v_share=0.4)
    mean, share = _shares(objective)
    assert mean == pytest.approx(1.0, abs=0.03) and share == pytest.approx(0.4, abs=0.02)
    moving = MeanFlow(times=times, v_share=Line(start=1.0, end=0.0))
    assert _shares(moving)[1] == pytest.approx(0.7, abs=1e-3)


def test_without_a_share_the_weight_of_v_is_that_of_alpha_and_of_the_rows():
    share = _shares(MeanFlow(alpha=MinSNRVelocity()))[1]
    assert share == pytest.approx(0.75 * 0.399 / (0.75 * 0.399 + 0.25), abs=0.01)  # 54 : 46
    assert _shares(MeanFlow(alpha=MinSNRNoise(normalise=True)))[1] == pytest.approx(0.75, abs=0.01)
    assert MeanFlow().weight(Draws(None, None, None, None)) is None


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_share_in_a_batch_of_one_kind_of_rows_is_finite(fraction):
    r = t = ops.ones((4,)) * 0.5
    r = r * (0.4 if fraction == 0.0 else 1.0)
    times = LogitNormal(fraction_r_equals_t=fraction)
    weight = _numpy(MeanFlow(times=times, v_share=0.4).weight(Draws(r, t, None, None)))
    np.testing.assert_allclose(weight, 0.6 if fraction == 0.0 else 0.4, rtol=1e-6)


def test_a_share_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match=r"v_share is a share in \[0, 1\]. Received: 1.5"):
        MeanFlow(v_share=1.5)
