"""A source of data that never repeats: samples of a known law, drawn anew at each step."""

from collections.abc import Callable
from typing import Any

import numpy as np

_ITEMS = (0, 0, 0, 3)  # a Philox counter that `Batches` does not use


class FreshSamples:
    """Draws each batch from a law. `Batches` gives the generator of (seed, step).

    `take` gives a fixed set of items, such as for a study or a reference; item i of the set is a
    pure function of its block of 1,024 items.

    Args:
        sample: `sample(n, generator) -> (x, y)`, y None without conditions.
        count: number of items of the fixed set.

    Example:
        >>> source = FreshSamples(GaussianMixture.like_images().sample)
        >>> x, y = source.take(np.arange(8))
    """

    block = 1024

    def __init__(self, sample: Callable, count: int = 1 << 16):
        self.sample, self.count = sample, count
        self.shape = self.take(np.arange(1))[0].shape[1:]

    def __len__(self) -> int:
        return self.count

    def take(self, indices: np.ndarray) -> tuple[np.ndarray, Any]:
        """The items `indices` of the fixed set, (x, y)."""
        indices = np.asarray(indices)
        blocks, places = np.unique(indices // self.block, return_inverse=True)
        drawn = [self._block(int(block)) for block in blocks]
        rows = places * self.block + indices % self.block
        x = np.concatenate([x for x, _ in drawn])[rows]
        y = None if drawn[0][1] is None else np.concatenate([y for _, y in drawn])[rows]
        return x, y

    def draw(
        self, indices: np.ndarray, generator: np.random.Generator, rows: slice
    ) -> tuple[np.ndarray, Any]:
        """`rows` of a new batch of as many samples as there are `indices`."""
        x, y = self.sample(len(indices), generator)
        return x[rows], None if y is None else y[rows]

    def _block(self, number):
        key = np.array([0, number], "uint64")
        return self.sample(
            self.block, np.random.Generator(np.random.Philox(key=key, counter=_ITEMS))
        )
