"""Joint laws of (r, t): which pairs of times a step draws."""

import math

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.part import part
from keras_meanflow.parts.ranges import check_within
from keras_meanflow.parts.schedules import Schedule, value_at
from keras_meanflow.parts.times import TimeSampler

_EDGE = 1e-5  # how close the times of UShaped come to 0 and 1


def _sorted_then_masked(first, second, below):
    t, r = ops.maximum(first, second), ops.minimum(first, second)
    return ops.where(below, r, t), t


def _two_logit_normals(law, keys, rows):
    """One time from the law's `t_mean` and `t_std`, one from its `r_mean` and `r_std`."""
    normals, p = keys.normal("times", (rows, 2)), keys.progress
    first = normals[:, 0] * value_at(law.t_std, p) + value_at(law.t_mean, p)
    second = normals[:, 1] * value_at(law.r_std, p) + value_at(law.r_mean, p)
    return ops.sigmoid(first), ops.sigmoid(second)


@part
class LogitNormal(TimeSampler):
    """Two draws of `sigmoid(N(mean, std^2))`, t the larger, r the smaller; then r := t on a share.

    On rows with r = t, t is the larger of two draws, as in the official code.

    Args:
        mean: location of the normal, a number or a schedule. -0.4 on ImageNet, -2.0 on CIFAR-10.
        std: scale of the normal, a number or a schedule.
        fraction_r_equals_t: share of rows with r = t. 0.75 on ImageNet, 0.25 on CIFAR-10.

    Example:
        >>> r, t = LogitNormal().draw(Keys(seed=0, step=0), rows=8)

    References:
        Mean Flows (arXiv 2505.13447), table 1d; Gsunshine/meanflow `sample_tr`.
    """

    mean: float | Schedule = -0.4
    std: float | Schedule = 1.0
    fraction_r_equals_t: float | Schedule = 0.75

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        mean, std = value_at(self.mean, keys.progress), value_at(self.std, keys.progress)
        times = ops.sigmoid(keys.normal("times", (rows, 2)) * std + mean)
        return _sorted_then_masked(times[:, 0], times[:, 1], below)


@part
class Uniform(TimeSampler):
    """Two uniform draws, t the larger, r the smaller; then r := t on a share of the rows.

    References:
        Mean Flows (arXiv 2505.13447), table 1d.
    """

    fraction_r_equals_t: float | Schedule = 0.75

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        times = keys.uniform("times", (rows, 2))
        return _sorted_then_masked(times[:, 0], times[:, 1], below)


def shifted(t: Tensor, shift: float) -> Tensor:
    """`shift t / (1 + (shift - 1) t)`: times in [0, 1]; a shift above 1 moves them towards noise.

    References:
        Esser et al., Scaling Rectified Flow Transformers (arXiv 2403.03206), section 5.3.2.
    """
    return shift * t / (1.0 + (shift - 1.0) * t)


def dimension_shift(shape: tuple[int, ...], base: int = 4096) -> float:
    """`sqrt(numbers of a sample / base)`: how much more noise data of this shape needs.

    Args:
        shape: of a sample; (16, 16, 768) has the shift 6.93.
        base: how many numbers a sample has that needs no shift.

    References:
        Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690), section 4.
    """
    return math.sqrt(math.prod(shape) / base)


@part
class ShiftedUniform(TimeSampler):
    """Two uniform draws below `latest`, shifted towards noise; r := t on a share of the rows.

    Args:
        shift: argument of `shifted`; `dimension_shift(shape)` in RAE and MF-RAE.
        latest: the largest draw before the shift.
        fraction_r_equals_t: share of rows with r = t.

    Raises:
        ValueError: for a shift that is not positive, or a `latest` outside (0, 1].

    References:
        Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690);
        sony/mf-rae `sample_mf`, which draws the share row by row.
    """

    shift: float = 1.0
    latest: float = 0.999
    fraction_r_equals_t: float | Schedule = 0.75

    def __post_init__(self):
        super().__post_init__()
        if not self.shift > 0.0 or not 0.0 < self.latest <= 1.0:
            raise ValueError(
                "shift must exceed 0 and latest must lie in (0, 1]. "
                f"Received: {self.shift}, {self.latest}."
            )

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        times = shifted(self.latest * keys.uniform("times", (rows, 2)), self.shift)
        return _sorted_then_masked(times[:, 0], times[:, 1], below)


@part
class MaskedThenClamped(TimeSampler):
    """t and r from two different logit-normals; r := t on a share, then r := min(t, r).

    About 6.6 % of the rows meant for r < t also end with r = t. The clamp does not change t.

    References:
        Gsunshine/py-meanflow `time_sampler.py`, v1 (CIFAR-10).
    """

    t_mean: float | Schedule = -0.6
    t_std: float | Schedule = 1.6
    r_mean: float | Schedule = -4.0
    r_std: float | Schedule = 1.6
    fraction_r_equals_t: float | Schedule = 0.25

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        t, r = _two_logit_normals(self, keys, rows)
        return ops.minimum(ops.where(below, r, t), t), t


@part
class TwoLogitNormals(TimeSampler):
    """`sigmoid(N(t_mean, t_std^2))` and `sigmoid(N(r_mean, r_std^2))`: t the larger, r the smaller.

    r := t on a share of the rows: 0 by default, as such methods train r = t in another branch.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `DMFLoss.sample_times`, with the
        means of its training scripts.
    """

    t_mean: float | Schedule = 0.4
    t_std: float | Schedule = 1.0
    r_mean: float | Schedule = -1.2
    r_std: float | Schedule = 1.0
    fraction_r_equals_t: float | Schedule = 0.0

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        one, other = _two_logit_normals(self, keys, rows)
        return _sorted_then_masked(one, other, below)


@part
class DiagonalLogitNormal(TimeSampler):
    """`t = sigmoid(N(mean, std^2))`, one draw, and r = t on every row.

    Example:
        >>> FlowMatching(times=DiagonalLogitNormal())

    References:
        Esser et al., Scaling Rectified Flow Transformers (arXiv 2403.03206), section 3.1.
    """

    mean: float | Schedule = 0.0
    std: float | Schedule = 1.0

    fraction_r_equals_t = 1.0

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        del below
        mean, std = value_at(self.mean, keys.progress), value_at(self.std, keys.progress)
        t = ops.sigmoid(keys.normal("times", (rows, 1))[:, 0] * std + mean)
        return t, t


@part
class UShaped(TimeSampler):
    """t is mostly near 0 or 1, the gap is independent of t, and r snaps to 0 where t is near 1.

    `p(t) ~ exp(a t) + exp(a (1 - t))` on [1e-5, 1 - 1e-5], clipped to `latest`;
    `r = max(t - sigmoid(N(gap_mean, gap_std^2)), 0)`; `r := 0` where `t > snap_t` and
    `r < snap_r`. Snapping replaces many nearly equal pairs by the ones that one-step sampling uses.

    Args:
        a: how much more likely the ends are than the middle.
        gap_mean, gap_std: of the normal distribution under the gap's sigmoid.
        snap_t, snap_r: where r becomes 0. The released code has snap_t = 0.8.
        latest: largest t; 80/81 for networks with noise levels t / (1 - t) up to 80, such as EDM2.
        fraction_r_equals_t: share of rows with r = t, applied last.

    References:
        Re-MeanFlow (arXiv 2511.23342), section 4 and table 4; Xinxi-Zhang/Re-MeanFlow
        `sample_t_and_r_re2_truncate`; the law of t from Lee et al., Improving the Training of
        Rectified Flows (arXiv 2405.20320).
    """

    a: float = 4.0
    gap_mean: float | Schedule = -0.8
    gap_std: float | Schedule = 1.0
    snap_t: float = 0.95
    snap_r: float = 0.4
    latest: float = 1.0
    fraction_r_equals_t: float | Schedule = 0.75

    def __post_init__(self):
        super().__post_init__()
        check_within("(0, inf)", a=self.a)
        check_within("[0, 1]", snap_t=self.snap_t, snap_r=self.snap_r)
        check_within("(0, 1]", latest=self.latest)

    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """See `TimeSampler.pair`."""
        normals, p = keys.normal("times", (rows, 2)), keys.progress
        t = self._t(0.5 * (1.0 + ops.erf(normals[:, 0] * 2.0**-0.5)))
        gap = ops.sigmoid(normals[:, 1] * value_at(self.gap_std, p) + value_at(self.gap_mean, p))
        r = ops.clip(t - gap, 0.0, 1.0 - _EDGE)
        snapped = ops.logical_and(t > self.snap_t, r < self.snap_r)
        return ops.where(below, ops.where(snapped, 0.0, r), t), t

    def _t(self, quantile):
        """The inverse of the exponential law for half of the draws, mirrored for the others."""
        mirrored = quantile >= 0.5
        q = ops.where(mirrored, 2.0 * quantile - 1.0, 2.0 * quantile)
        t = ops.log(1.0 + q * (math.exp(self.a) - 1.0)) / self.a
        t = ops.where(mirrored, 1.0 - t, t)
        return ops.minimum(_EDGE + t * (1.0 - 2.0 * _EDGE), self.latest)
