"""A number with its standard error, from leave-one-block-out values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its uncertainty over the choice of samples: `value +- 1.96 standard_error`.

    Args:
        value: The estimate from all samples.
        standard_error: Its standard error; `nan` where it is unknown.

    Example:
        >>> Estimate(3.0, 0.5).interval
        (2.02, 3.98)
    """

    value: float
    standard_error: float = float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, if the estimate is normally distributed."""
        return (self.value - 1.96 * self.standard_error, self.value + 1.96 * self.standard_error)

    def to_dict(self) -> dict:
        """Value, standard error and interval by name, JSON values."""
        return {
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": list(self.interval),
        }


def jackknife(value: float, without_one: Sequence[float]) -> Estimate:
    """The jackknife standard error, `sqrt((g-1)/g sum_j (theta_j - mean)^2)`.

    Args:
        value: The estimate from all g blocks.
        without_one: The g estimates, each without one of g blocks of equal size.

    Returns:
        The value unchanged (no bias correction), with its standard error.

    Example:
        >>> jackknife(2.0, [1.5, 2.0, 2.5]).standard_error
        0.5773502691896257

    References:
        Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982.
    """
    theta = np.asarray(without_one, np.float64)
    g = len(theta)
    variance = (g - 1) / g * np.sum((theta - theta.mean()) ** 2)
    return Estimate(float(value), float(np.sqrt(variance)))


GROUPS = 100  # groups of rows shuffled by one draw


def dealt(start: int, count: int, blocks: int) -> np.ndarray:
    """The block of each of the rows start ... start + count - 1, a pure function of the row.

    Each group of `blocks` consecutive rows has one row for each block, in shuffled order. The
    blocks are therefore equally large, and no block gets the same labels again and again.
    """
    window = GROUPS * blocks
    first, last = start // window, (start + max(count, 1) - 1) // window
    block = np.concatenate([_shuffled(w, blocks) for w in range(first, last + 1)])
    return block[start - first * window :][:count]


def _shuffled(window, blocks):
    rng = np.random.Generator(np.random.Philox(key=window))
    groups = np.tile(np.arange(blocks), (GROUPS, 1))
    return rng.permuted(groups, axis=1).ravel()
