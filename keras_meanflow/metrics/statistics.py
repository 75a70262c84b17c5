"""Mean and covariance of features in one pass, in blocks whose leave-one-out gives an interval."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from keras_meanflow.metrics.estimate import dealt

ROWS_PER_BLOCK = 100  # rows gathered for a block before its matrix product: 2,000 rows are held


class Moments:
    """Count, mean and scatter `S = sum (x - mean)(x - mean)^T` of rows, in float64.

    Sums of two sets of rows are exact (Chan's update), so that blocks can be merged and left out.

    Args:
        width: The number of features, D.

    References:
        Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance, 1983.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def add_rows(self, x: np.ndarray) -> None:
        """Adds the rows of a (N, D) array."""
        if len(x):
            mean = x.mean(axis=0, dtype=np.float64)
            jump = self._shift(len(x), mean)
            rows = np.concatenate([x - mean, jump[None]])  # one product for both terms
            self.scatter += rows.T @ rows

    def add(self, other: Moments) -> None:
        """Adds the rows that another one has seen."""
        if other.count:
            jump = self._shift(other.count, other.mean)
            self.scatter += other.scatter
            self.scatter += np.multiply.outer(jump, jump)

    def without(self, part: Moments) -> Moments:
        """The moments of the rows that are not in `part`."""
        rest = Moments(0)
        rest.count = self.count - part.count
        rest.mean = (self.count * self.mean - part.count * part.mean) / rest.count
        jump = (part.mean - rest.mean) * np.sqrt(part.count * rest.count / self.count)
        rest.scatter = self.scatter - part.scatter
        rest.scatter -= np.multiply.outer(jump, jump)
        return rest

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, `S / (count - 1)`, (D, D)."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 samples. Received {self.count}.")
        return self.scatter / (self.count - 1)

    def _shift(self, count, mean):
        """Moves count and mean; returns the row `sqrt(ab/(a+b)) (mean_b - mean_a)`."""
        step = mean - self.mean
        total = self.count + count
        jump = step * np.sqrt(self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total
        return jump


class Statistics:
    """Mean and covariance of (N, D) features that arrive in batches, in one pass and float64.

    Memory is `blocks` matrices of D x D and 100 rows a block, whatever the number of samples.
    Each group of `blocks` consecutive rows is dealt to the blocks by a random permutation that is
    fixed: blocks are equally large to one row, do not depend on batches, and do not fall in step
    with labels that repeat.

    Args:
        blocks: How many blocks to keep apart: 20 for samples, whose interval comes from them; 1
            for a reference.

    Example:
        >>> statistics = Statistics()
        >>> for batch in np.random.default_rng(0).normal(size=(10, 64, 8)):
        ...     statistics.update(batch)
        >>> statistics.count, statistics.mean.shape, statistics.covariance.shape
        (640, (8,), (8, 8))
    """

    def __init__(self, blocks: int = 20):
        if blocks < 1:
            raise ValueError(f"`blocks` must be at least 1. Received {blocks}.")
        self.blocks = blocks
        self._parts = None
        self._rows = None
        self._start = self._folded = self._filled = 0

    def update(self, features: np.ndarray) -> None:
        """Adds a batch of features (N, D).

        Raises:
            ValueError: For another width than before, another rank, or a value that is not finite.
        """
        x = self._check(np.asarray(features))
        if self._parts is None:
            self._parts = [Moments(x.shape[1]) for _ in range(self.blocks)]
            self._rows = np.empty((ROWS_PER_BLOCK * self.blocks, x.shape[1]))
        while len(x):
            room = len(self._rows) - self._filled
            self._rows[self._filled : self._filled + len(x[:room])] = x[:room]
            self._filled += len(x[:room])
            x = x[room:]
            if self._filled == len(self._rows):
                self._fold()

    def merge(self, other: Statistics) -> None:
        """Adds all rows that another `Statistics` of as many blocks has seen, block by block."""
        if other.blocks != self.blocks:
            raise ValueError(
                "Statistics merge block by block and need as many blocks. "
                f"Received blocks={other.blocks}, here blocks={self.blocks}."
            )
        theirs = other.parts()
        if self._parts is None:
            self.update(np.empty((0, theirs[0].mean.size)))
        for mine, part in zip(self.parts(), theirs, strict=True):
            mine.add(part)

    def parts(self) -> list[Moments]:
        """The moments of each block."""
        if self._parts is None:
            raise ValueError("Statistics of no samples. Call `update(features)` first.")
        self._fold()
        return self._parts

    def total(self, which: Iterable[int] | None = None) -> Moments:
        """The moments of the rows of these blocks, of all by default."""
        parts = self.parts()
        chosen = range(self.blocks) if which is None else which
        total = Moments(parts[0].mean.size)
        for j in chosen:
            total.add(parts[j])
        return total

    @property
    def count(self) -> int:
        """How many rows have been seen."""
        return sum(part.count for part in self.parts()) if self._parts else 0

    @property
    def mean(self) -> np.ndarray:
        """The mean, (D,), float64."""
        return self.total().mean

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, (D, D), float64."""
        return self.total().covariance

    def _fold(self):
        """Moves the rows gathered so far into their blocks."""
        if self._rows is None:
            return
        block = dealt(self._start + self._folded, self._filled - self._folded, self.blocks)
        rows = self._rows[self._folded : self._filled]
        for j in range(self.blocks):
            self._parts[j].add_rows(rows[block == j])
        self._folded = self._filled
        if self._filled == len(self._rows):
            self._start, self._folded, self._filled = self._start + len(self._rows), 0, 0

    def _check(self, x):
        if x.ndim != 2:
            raise ValueError(f"Features must have shape (samples, width). Received {x.shape}.")
        if self._parts is not None and x.shape[1] != self._parts[0].mean.size:
            raise ValueError(
                "Features must keep their width. "
                f"Received width {x.shape[1]} after width {self._parts[0].mean.size}."
            )
        if not np.isfinite(x).all():
            row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
            raise ValueError(f"Features must be finite. Received NaN or infinity in row {row}.")
        return x
