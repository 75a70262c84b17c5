"""Joint samplers of (r, t), and which rows of a batch have r < t."""

import abc

from keras import ops

from keras_meanflow.configurable import Configurable, part
from keras_meanflow.schedules import Schedule, value_at

_PARTS = 10_000  # shares are exact to a hundredth of a per cent


def count_r_below_t(rows, fraction_r_equals_t):
    """`K = round(B (1 - fraction))`, the number of rows with r < t among `rows`."""
    return (rows * round((1.0 - fraction_r_equals_t) * _PARTS) + _PARTS // 2) // _PARTS


def indices_r_below_t(rows, count):
    """The `count` rows with r < t, evenly interleaved: row i with floor((i+1)K/B) > floor(iK/B)."""
    return ((ops.arange(count, dtype="int32") + 1) * rows - 1) // count


def mask_r_below_t(rows, count):
    """(B,) booleans of the same rows."""
    i = ops.arange(rows, dtype="int32")
    return ((i + 1) * count) // rows > (i * count) // rows


class TimeSampler(Configurable, abc.ABC):
    """Draws (r, t) with 0 <= r <= t <= 1, a fixed share of the rows on the diagonal r = t.

    A subclass draws one time from two standard normals a row and says how the pair is ordered.
    """

    fraction_r_equals_t: float

    def __post_init__(self):
        if not 0.0 <= self.fraction_r_equals_t <= 1.0:
            raise ValueError(
                "fraction_r_equals_t is a share of rows, in [0, 1]. "
                f"Received: {self.fraction_r_equals_t}."
            )

    def draw(self, keys, rows):
        """`r` and `t`, float32 of shape (rows,)."""
        count = count_r_below_t(rows, self.fraction_r_equals_t)
        return self.pair(keys, rows, mask_r_below_t(rows, count))

    @abc.abstractmethod
    def pair(self, keys, rows, below):
        """`r` and `t`, equal where `below` is False."""


def _sorted_then_masked(first, second, below):
    t, r = ops.maximum(first, second), ops.minimum(first, second)
    return ops.where(below, r, t), t


@part
class LogitNormal(TimeSampler):
    """Two draws of `sigmoid(N(mean, std^2))`, t the larger, r the smaller; then r := t on a share.

    On rows with r = t, t is the larger of two draws, as in the official code.

    Args:
        mean: location of the normal, a number or a schedule. -0.4 on ImageNet, -2.0 on CIFAR-10.
        std: its scale.
        fraction_r_equals_t: share of rows with r = t. 0.75 on ImageNet, 0.25 on CIFAR-10.

    Example:
        >>> r, t = LogitNormal().draw(Keys(seed=0, step=0), rows=8)

    References:
        Mean Flows (arXiv 2505.13447), table 1d; Gsunshine/meanflow `sample_tr`.
    """

    mean: float | Schedule = -0.4
    std: float | Schedule = 1.0
    fraction_r_equals_t: float = 0.75

    def pair(self, keys, rows, below):
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

    fraction_r_equals_t: float = 0.75

    def pair(self, keys, rows, below):
        """See `TimeSampler.pair`."""
        times = keys.uniform("times", (rows, 2))
        return _sorted_then_masked(times[:, 0], times[:, 1], below)


@part
class MaskedThenClamped(TimeSampler):
    """t and r from two different logit-normals; r := t on a share, then r := min(t, r).

    About 6.6 % of the rows that were to have r < t also end with r = t. t keeps its own law.

    References:
        Gsunshine/py-meanflow `time_sampler.py`, v1 (CIFAR-10).
    """

    t_mean: float | Schedule = -0.6
    t_std: float | Schedule = 1.6
    r_mean: float | Schedule = -4.0
    r_std: float | Schedule = 1.6
    fraction_r_equals_t: float = 0.25

    def pair(self, keys, rows, below):
        """See `TimeSampler.pair`."""
        normals, p = keys.normal("times", (rows, 2)), keys.progress
        t = ops.sigmoid(normals[:, 0] * value_at(self.t_std, p) + value_at(self.t_mean, p))
        r = ops.sigmoid(normals[:, 1] * value_at(self.r_std, p) + value_at(self.r_mean, p))
        return ops.minimum(ops.where(below, r, t), t), t
