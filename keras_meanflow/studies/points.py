"""The fixed random subset of the data on which a diagnostic is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_meanflow.backend.random import philox_noise


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Data items, each with its noise and its condition.

    Args:
        x: (n, ...) data, float32.
        e: noise of the same shape.
        condition: labels (n,), or None.

    Example:
        >>> points = Points.of(training.data, 256, seed=0)
    """

    x: np.ndarray
    e: np.ndarray
    condition: Any = None

    @classmethod
    def of(cls, source: Any, count: int, *, seed: int = 0) -> Points:
        """`count` items of a data source, chosen by a permutation from `seed`.

        Stored pairs keep their stored noise; for other data the noise is drawn from `seed`.

        Raises:
            ValueError: for fewer than 1 item, or for more items than the source has.
        """
        if not 1 <= count <= len(source):
            raise ValueError(
                f"The subset has 1 to {len(source)} items, as many as the data. Received: {count}."
            )
        chosen = np.random.default_rng(seed).permutation(len(source))[:count]
        x, condition = source.take(np.sort(chosen))
        if isinstance(x, dict):
            return cls(x["x"], x["e"], condition)
        return cls(x, philox_noise(seed, range(count), x.shape[1:]), condition)

    def at(self, t: np.ndarray) -> np.ndarray:
        """`z_t = (1 - t) x + t e`, for t (n,)."""
        t = np.reshape(t, (-1,) + (1,) * (self.x.ndim - 1))
        return (1.0 - t) * self.x + t * self.e

    def batches(self, batch_size: int) -> Iterator[tuple]:
        """Yields full batches for `fit`, (x, condition) or (x,); an incomplete one is left out.

        Raises:
            ValueError: if there is no full batch.
        """
        if len(self.x) < batch_size:
            raise ValueError(
                f"A batch has {batch_size} items. Received: a subset of {len(self.x)}."
            )
        for start in range(0, len(self.x) - batch_size + 1, batch_size):
            rows = slice(start, start + batch_size)
            data = (self.x,) if self.condition is None else (self.x, self.condition)
            yield keras.tree.map_structure(lambda a, rows=rows: a[rows], data)
