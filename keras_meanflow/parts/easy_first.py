"""Easy times first: the law of t widens from noise towards data, stage by stage."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.schedules import Schedule
from keras_meanflow.parts.times import StateVariable, TimeSampler

_ROOT_2 = 2.0**0.5


@part
class Plateau(Configurable):
    """Go to the next stage once the smoothed error has not improved for some steps.

    It watches the unnormalised squared error of the rows with r = t, smoothed exponentially from
    the first step of each stage. The model keeps and saves the smoothed error, the best one, the
    count and the stage.

    Args:
        stages: number of stages.
        patience: steps without a new best after which the next stage begins.
        smoothing: weight of the past in the smoothed error.

    Raises:
        ValueError: for fewer than one stage or step of patience, or a smoothing outside [0, 1).
    """

    stages: int
    patience: int = 200
    smoothing: float = 0.99

    def __post_init__(self):
        if self.stages < 1 or self.patience < 1:
            raise ValueError(
                f"stages and patience are at least 1. Received: {self.stages}, {self.patience}."
            )
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must lie in [0, 1). Received: {self.smoothing}.")

    def __call__(self, error: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The next (stage, count, smoothed, best) after a step with this error.

        `smoothed` below zero means that a stage has just begun.
        """
        stage, count, smoothed, best = state
        first = smoothed < 0.0
        moved = self.smoothing * smoothed + (1.0 - self.smoothing) * error
        smoothed = ops.where(first, error, moved)
        better = ops.logical_or(first, smoothed < best)
        best, count = ops.where(better, smoothed, best), ops.where(better, 0, count + 1)
        over = ops.logical_and(count >= self.patience, stage < self.stages - 1)
        stage, count = ops.where(over, stage + 1, stage), ops.where(over, 0, count)
        return stage, count, ops.where(over, -1.0, smoothed), best


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagedLogitNormal(TimeSampler):
    """Base of the laws whose t is restricted to `t >= 1 - n / N` in stage n of 1..N.

    The interval [0, 1] of t is cut into N equal parts: the parts near noise are easy, the parts
    near data are hard. The last stage has the law of `LogitNormal`. A subclass writes `pair`.
    """

    mean: float = -0.4
    std: float = 1.0
    fraction_r_equals_t: float | Schedule = 0.75
    pacing: Plateau = Plateau(stages=20)

    @property
    def stages(self) -> int:
        """See `TimeSampler`."""
        return self.pacing.stages

    @property
    def state(self) -> dict[str, StateVariable]:
        """See `TimeSampler`: the state that `Plateau.__call__` takes."""
        return {
            "stage": StateVariable(0, logged=True),
            "stage_count": StateVariable(0),
            "stage_error": StateVariable(-1.0),
            "stage_best": StateVariable(0.0),
        }

    def update_state(self, state: dict[str, Any], errors: dict[str, tuple]) -> dict[str, Any]:
        """See `TimeSampler.update_state`; a batch without rows r = t changes nothing."""
        total, count = errors["v_error"]
        now = [state[name] for name in self.state]
        after = self.pacing(total / ops.maximum(count, 1.0), now)
        pairs = zip(now, after, strict=True)
        return dict(
            zip(self.state, (ops.where(count > 0.0, new, old) for old, new in pairs), strict=True)
        )

    def _restricted(self, keys, draws):
        """F of the stage's threshold, and F(t) of the restricted t from uniform draws, (rows,).

        F is the law of one draw. t is the larger of two, so P(t <= x) = F(x)^2.
        """
        outside = ops.take(ops.convert_to_tensor(self._outside()), keys.state["stage"])
        return outside, ops.sqrt(outside**2 + (1.0 - outside**2) * draws)

    def _times(self, f_r, f_t, below):
        """r and t, from F(r) and F(t), equal where `below` is False."""
        t = self._quantile(f_t)
        return ops.where(below, ops.minimum(self._quantile(f_r), t), t), t

    def _outside(self):
        """F(threshold) of every stage, (stages,)."""
        thresholds = 1.0 - np.arange(1, self.pacing.stages + 1) / self.pacing.stages
        return np.array([self._cdf(x) for x in thresholds], "float32")

    def _cdf(self, t):
        if t < 1e-12:
            return 0.0
        normal = (math.log(t / (1.0 - t)) - self.mean) / self.std
        return 0.5 * (1.0 + math.erf(normal / _ROOT_2))

    def _quantile(self, p):
        normal = _ROOT_2 * ops.erfinv(2.0 * p - 1.0)
        return ops.sigmoid(normal * self.std + self.mean)


@part
class EasyFirst(StagedLogitNormal):
    """`LogitNormal` restricted to t above a threshold that falls stage by stage, on all rows.

    Stage n of 1..N draws `t >= 1 - n / N`. The law of r given t does not change, so in the first
    stages r lies where the velocity is not trained, and gaps are long.

    Partly a reconstruction. Our notes on the paper do not say how it combines the stages with its
    logit-normal law, whether it also restricts rows with r < t, or its N and patience. N = 20 and
    200 steps are from the work that introduced the stages. `EasyFirstOnDiagonal` and
    `EasyFirstInterval` are the two other readings.

    Args:
        mean, std: of the normal distribution under the sigmoid.
        fraction_r_equals_t: share of rows with r = t, a number or a schedule.
        pacing: the number of stages, N, and when the next one begins.

    Example:
        >>> MeanFlow(times=EasyFirst(pacing=Plateau(stages=20, patience=200)))

    References:
        Kim et al., Denoising Task Difficulty-based Curriculum (arXiv 2403.10348), section 4;
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), Eq. 9.
    """

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        draws = keys.uniform("times", (rows, 2))
        _, f_t = self._restricted(keys, draws[:, 0])
        return self._times(f_t * draws[:, 1], f_t, below)  # F(r) / F(t) is uniform


@part
class EasyFirstOnDiagonal(StagedLogitNormal):
    """As `EasyFirst`, but only rows with r = t are restricted; rows with r < t keep their law.

    Args:
        mean, std, fraction_r_equals_t, pacing: see `EasyFirst`.
    """

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        draws = keys.uniform("times", (rows, 2))
        _, restricted = self._restricted(keys, draws[:, 0])
        f_t = ops.where(below, ops.sqrt(draws[:, 0]), restricted)
        return self._times(f_t * draws[:, 1], f_t, below)


@part
class EasyFirstInterval(StagedLogitNormal):
    """As `EasyFirst`, but r too lies above the threshold: the first stages have short gaps.

    Given t, r has the law of one draw restricted to `[1 - n / N, t]`.

    Args:
        mean, std, fraction_r_equals_t, pacing: see `EasyFirst`.
    """

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        draws = keys.uniform("times", (rows, 2))
        outside, f_t = self._restricted(keys, draws[:, 0])
        return self._times(outside + (f_t - outside) * draws[:, 1], f_t, below)
