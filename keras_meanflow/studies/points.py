"""The fixed random subset of the data on which a diagnostic is measured."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_meanflow.backend.random import philox_noise


@dataclasses.dataclass(frozen=True, eq=False)
class Points:
    """Data, the noise that belongs to each item, and its condition.

    Args:
        x: (n, ...) data, float32.
        e: noise of its shape.
        condition: labels (n,), or None.

    Example:
        >>> points = Points.of(training.data, 256, seed=0)
    """

    x: np.ndarray
    e: np.ndarray
    condition: Any = None

    @classmethod
    def of(cls, source, count, *, seed=0):
        """`count` items of a data source, chosen by a permutation of `seed`.

        The noise is the stored one of stored pairs, else fresh.

        Raises:
            ValueError: for fewer than 1 item, or more than the source has.
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

    def at(self, t):
        """`z_t = (1 - t) x + t e`, for t (n,)."""
        t = np.reshape(t, (-1,) + (1,) * (self.x.ndim - 1))
        return (1.0 - t) * self.x + t * self.e

    def batches(self, batch_size):
        """Yields full batches as `fit` has them, (x, condition) or (x,); the rest is left out.

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
