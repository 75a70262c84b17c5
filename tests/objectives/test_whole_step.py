"""A whole training step against one that is written by hand, in float64 NumPy."""

import csv

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow import FlowMap, MeanFlow
from keras_meanflow.networks import Network
from keras_meanflow.parts import (
    AdaptiveLoss,
    EasyFirstInterval,
    EasyFirstOnDiagonal,
    FallingGap,
    Line,
    LogitNormal,
    MinSNRNoise,
    MinSNRVelocity,
    ProgressiveGap,
)
from keras_meanflow.training.callbacks.log import Log

ROWS, SIZE, HORIZON, STEP, P, C = 16, 3, 10, 3, 0.75, 0.1
RATE = 1000.0  # so that rounding of the weights hides nothing of the gradient
PROGRESS = STEP / HORIZON
X = np.random.default_rng(3).standard_normal((ROWS, SIZE)).astype("float32")


class LinearNetwork(Network):
    """`u(z, r, t) = z W + t b + (t - r) c`, whose du/dt along (v, 0, 1) is `v W + b + c`."""

    def __init__(self):
        super().__init__(data_shape=(SIZE,))
        random = keras.initializers.RandomNormal(stddev=0.5, seed=7)
        self.w = self.add_weight((SIZE, SIZE), random, name="w")
        self.b, self.c = (self.add_weight((SIZE,), random, name=name) for name in "bc")
        self.built = True

    def call(self, z, r, t, condition=None):
        return z @ self.w + t[:, None] * self.b + (t - r)[:, None] * self.c


def _quarter(**kwargs):
    return MeanFlow(loss=AdaptiveLoss(p=P, c=C), **kwargs)


def _scaled(row_weights, equal, share):
    """The weights of rows whose shapes have the mean 1, for a share of the weight on v."""
    return row_weights * np.where(equal, share / equal.mean(), (1.0 - share) / (~equal).mean())


def _progressive(gap, mean_gap, s):
    return 1.0 - s + s * (1.0 - gap) / (1.0 - mean_gap)


def _noise_weight(t):
    return np.minimum(1.0, 5.0 * (t / (1.0 - t)) ** 2)


# An objective, and its weights from r, t and the objective's own tables, by hand.
CASES = {
    "plain": (_quarter(), lambda o, r, t: np.ones(ROWS)),
    "MinSNRNoise and beta": (
        _quarter(alpha=MinSNRNoise(), beta=ProgressiveGap()),
        lambda o, r, t: np.where(
            r == t, _noise_weight(t), _progressive(t - r, o.times.mean_gaps()[0], 1.0 - PROGRESS)
        ),
    ),
    "a share of v, scheduled": (
        _quarter(alpha=MinSNRNoise(), v_share=Line(start=0.2, end=0.8)),
        lambda o, r, t: _scaled(
            np.where(r == t, _noise_weight(t) / o._means["alpha"][0], 1.0), r == t, 0.2 + 0.18
        ),
    ),
    "TEMF's weight, more rows than half below": (
        _quarter(times=LogitNormal(fraction_r_equals_t=0.25), beta=FallingGap()),
        lambda o, r, t: 1.0 / ((1.0 + 0.5 * (t - r)) * np.sqrt(1.0 + (t - r) ** 2)),
    ),
    "MinSNR of v at mean 2, easy times first": (
        _quarter(times=EasyFirstInterval(), alpha=MinSNRVelocity(scale=2.0, normalise=True)),
        lambda o, r, t: np.where(
            r == t,
            2.0 * np.minimum((1 - t) ** 2, 5 * t**2) / (t**2 + (1 - t) ** 2) / o._means["alpha"][0],
            1.0,
        ),
    ),
    "easy times first on the diagonal": (
        _quarter(times=EasyFirstOnDiagonal(), v_share=0.5),
        lambda o, r, t: _scaled(np.ones(ROWS), r == t, 0.5),
    ),
}


def _by_hand(weights, r, t, e, row_weights):
    """The gradient in W, b, c of the mean of `weight |d|^2 / sg(|d|^2 + c)^p`."""
    w, b, c = weights
    r, t = r[:, None], t[:, None]
    z, v = (1.0 - t) * X + t * e, e - X
    target = v - (t - r) * (v @ w + b + c)  # r = t leaves v
    d = z @ w + t * b + (t - r) * c - target
    factor = row_weights / ((d**2).sum(axis=1) + C) ** P / ROWS
    by_u = 2.0 * d * factor[:, None]
    return z.T @ by_u, (t * by_u).sum(axis=0), ((t - r) * by_u).sum(axis=0)


@pytest.mark.parametrize("name", CASES)
def test_the_gradients_of_a_whole_step_are_those_written_by_hand(name):
    objective, row_weights = CASES[name]
    flow_map = FlowMap(LinearNetwork(), objective, averages=(), horizon=HORIZON, seed=4)
    flow_map.compile(keras.optimizers.SGD(RATE), jit_compile=False)
    flow_map.step.assign(STEP)
    before = [ops.convert_to_numpy(w).astype("float64") for w in flow_map.network.weights]
    draws = objective.draw(flow_map.keys(ROWS), ops.convert_to_tensor(X))
    r, t, e = (ops.convert_to_numpy(a).astype("float64") for a in (draws.r, draws.t, draws.e))
    assert 0 < (r < t).sum() < ROWS
    expected = _by_hand(before, r, t, e, row_weights(objective, r, t))
    flow_map.fit(X, batch_size=ROWS, shuffle=False, verbose=0)
    for old, weight, gradient in zip(before, flow_map.network.weights, expected, strict=True):
        moved = (old - ops.convert_to_numpy(weight)) / RATE
        np.testing.assert_allclose(moved, gradient, rtol=1e-5, atol=1e-5 * abs(gradient).max())


def test_the_log_has_the_shares_of_the_weight_on_v_and_on_u(tmp_path):
    def logged(objective, **kwargs):
        flow_map = FlowMap(LinearNetwork(), objective, averages=(), horizon=HORIZON)
        flow_map.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.csv"
        flow_map.fit(X, batch_size=ROWS, verbose=0, callbacks=[Log(file)], **kwargs)
        (row,) = csv.DictReader(file.read_text().splitlines())
        assert float(row["v_weight"]) + float(row["u_weight"]) == pytest.approx(1.0, abs=1e-6)
        return float(row["v_weight"])

    assert logged(MeanFlow()) == pytest.approx(0.75, abs=1e-6)
    assert logged(MeanFlow(v_share=0.4)) == pytest.approx(0.4, abs=1e-6)
    assert logged(MeanFlow(alpha=MinSNRVelocity())) < 0.65
