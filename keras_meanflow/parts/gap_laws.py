"""Laws of (r, t) that control the gap t - r."""

from typing import Any

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.part import part
from keras_meanflow.parts.schedules import Schedule, bounds_of, value_at
from keras_meanflow.parts.time_laws import LogitNormal
from keras_meanflow.parts.times import StateVariable, TimeSampler


@part
class PowerGap(TimeSampler):
    """t in [least, 1], `r = t - U^exponent (t - least)`, U uniform; r := t on a share of rows.

    The largest gap is 1 - least. So with least > 0 the jump from 1 to 0 itself is not trained.

    Args:
        least: the smallest time.
        exponent: gamma, a number or a schedule; the larger, the shorter the gaps.
        lateness: `t = 1 - (1 - least) U^lateness`: 1 for a uniform t; a larger one moves t to 1.
        fraction_r_equals_t: share of rows with r = t.

    Raises:
        ValueError: for `least` outside [0, 1), or an exponent or lateness that is not positive.

    Example:
        >>> PowerGap(exponent=Line(start=8.0, end=1.0, until=0.7))  # short gaps first

    References:
        MeanFlowSE (arXiv 2509.14858); liduojia1/MeanFlowSE `_sample_r_given_t`.
    """

    least: float = 0.03
    exponent: float | Schedule = 1.0
    lateness: float = 1.0
    fraction_r_equals_t: float | Schedule = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= self.least < 1.0:
            raise ValueError(f"least is a time in [0, 1). Received: {self.least}.")
        if not bounds_of(self.exponent)[0] > 0.0:
            raise ValueError(f"exponent must exceed 0. Received: {self.exponent}.")
        if not self.lateness > 0.0:
            raise ValueError(f"lateness must exceed 0. Received: {self.lateness}.")

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        draws = keys.uniform("times", (rows, 2))
        t = 1.0 - (1.0 - self.least) * (1.0 - draws[:, 0]) ** self.lateness
        gap = draws[:, 1] ** value_at(self.exponent, keys.progress) * (t - self.least)
        return ops.where(below, t - gap, t), t


@part
class ShapedGap(TimeSampler):
    """Another sampler's pairs with the gap `min(t ((t - r) / t)^exponent, largest)`.

    An exponent above 1 shortens the gaps, one below 1 lengthens them. t is unchanged.

    Args:
        times: the other sampler; its share of rows with r = t is kept.
        exponent: a number or a schedule.
        largest: the largest gap, a number or a schedule.

    Example:
        >>> ShapedGap(times=LogitNormal(), largest=Line(start=0.1, end=1.0))  # short gaps first
    """

    times: TimeSampler = LogitNormal()
    exponent: float | Schedule = 1.0
    largest: float | Schedule = 1.0

    def __post_init__(self):
        for name in ("exponent", "largest"):
            if not bounds_of(getattr(self, name))[0] > 0.0:
                raise ValueError(f"{name} must exceed 0. Received: {getattr(self, name)}.")

    @property
    def fraction_r_equals_t(self) -> float | Schedule:
        """The share of rows with r = t, of `times`."""
        return self.times.fraction_r_equals_t

    @property
    def stages(self) -> int:
        """The stages of `times`."""
        return self.times.stages

    @property
    def state(self) -> dict[str, StateVariable]:
        """The state of `times`."""
        return self.times.state

    def update_state(self, state: dict[str, Any], errors: dict[str, tuple]) -> dict[str, Any]:
        """The state of `times` after a step."""
        return self.times.update_state(state, errors)

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        r, t = self.times.pair(keys, rows, below)
        ratio = ops.maximum(t - r, 1e-12) / ops.maximum(t, 1e-12)
        gap = t * ratio ** value_at(self.exponent, keys.progress)
        gap = ops.minimum(gap, value_at(self.largest, keys.progress))
        return ops.where(r < t, ops.maximum(t - gap, 0.0), t), t


@part
class GapBin(TimeSampler):
    """Another sampler's pairs with r < t, restricted to gaps `low <= t - r <= high`.

    The other sampler, in its final state, gives 65,536 evenly spread pairs. A step draws from the
    pairs in the bin: about 540 if the bin holds 0.8 % of them.

    Args:
        times: the other sampler.
        low, high: smallest and largest gap.
        fraction_r_equals_t: share of rows with r = t; their t is from a pair in the bin too.

    Raises:
        ValueError: if low to high is no interval within [0, 1], or the sampler has no pair in it.

    Example:
        >>> MeanFlow(times=GapBin(times=LogitNormal(), low=0.1, high=0.3))  # u alone, short gaps

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 4.
    """

    times: TimeSampler = LogitNormal()
    low: float = 0.1
    high: float = 0.3
    fraction_r_equals_t: float | Schedule = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0.0 <= self.low < self.high <= 1.0:
            raise ValueError(
                "A bin of gaps lies in [0, 1], low below high. "
                f"Received: {self.low} to {self.high}."
            )
        object.__setattr__(self, "_pairs", self._pairs_of_the_bin())

    def _pairs_of_the_bin(self):
        """(n, 2) float32 pairs r, t."""
        r, t = self.times.even_pairs()
        inside = (r < t) & (self.low <= t - r) & (t - r <= self.high)
        if not inside.any():
            raise ValueError(
                f"{type(self.times).__name__} must draw gaps of the bin, but draws none. "
                f"Received: low={self.low}, high={self.high}."
            )
        return np.stack([r[inside], t[inside]], axis=1)

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        place = keys.uniform("times", (rows, 1))[:, 0] * len(self._pairs)
        index = ops.minimum(ops.cast(place, "int32"), len(self._pairs) - 1)
        pairs = ops.take(ops.convert_to_tensor(self._pairs), index, axis=0)
        r, t = pairs[:, 0], pairs[:, 1]
        return ops.where(below, r, t), t
