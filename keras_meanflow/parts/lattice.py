"""Means over what a time sampler draws, computed once, outside the compiled step."""

import functools
import statistics
from typing import Any

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor

_ROWS = 1 << 16
_FOLDS = 64  # iterations of the fixed point below: far more than needed


class Lattice:
    """Replaces `Keys` by points that fill the unit cube evenly: means over them are expectations.

    Args:
        progress: the training progress that schedules see.
        state: the state that laws with a state see.

    References:
        Roberts, The unreasonable effectiveness of quasirandom sequences:
        `x_ij = (1/2 + i / phi^j) mod 1`, with phi the root of `phi^(d + 1) = phi + 1`.
    """

    rows = _ROWS

    def __init__(self, progress: float = 1.0, state: dict[str, Any] | None = None):
        self.progress, self.state = progress, state or {}

    def uniform(self, name: str, shape: tuple[int, int]) -> Tensor:
        """(rows, width) points, float32."""
        del name
        return ops.convert_to_tensor(_points(shape[1]).astype("float32"))

    def normal(self, name: str, shape: tuple[int, int]) -> Tensor:
        """The same points as standard normals."""
        del name
        return ops.convert_to_tensor(_normals(shape[1]))


@functools.lru_cache
def _points(width):
    phi = 2.0
    for _ in range(_FOLDS):
        phi = (1.0 + phi) ** (1.0 / (width + 1))
    powers = phi ** -np.arange(1.0, width + 1)
    return (0.5 + np.arange(1, _ROWS + 1)[:, None] * powers) % 1.0


@functools.lru_cache
def _normals(width):
    inverse = statistics.NormalDist().inv_cdf
    values = [inverse(p) for p in _points(width).ravel()]
    return np.array(values, "float32").reshape(-1, width)
