"""Mean and covariance of features in one pass, in blocks, for leave-one-block-out intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np

from keras_meanflow.metrics.estimate import dealt

ROWS_PER_BLOCK = 400  # rows gathered per block for a matrix product; 8,000 rows for 20 blocks
PANELS = 12  # of the upper triangle of S, which save half of its memory and work


class Moments:
    """Count, mean and scatter `S = sum (x - mean)(x - mean)^T` of rows, in float64.

    The moments of two sets of rows add up exactly (Chan's update), so that blocks can be merged and
    left out. S is symmetric: only panels from the diagonal to the right are stored.

    Args:
        width: The number of features, D.

    References:
        Chan, Golub, LeVeque, Algorithms for Computing the Sample Variance, 1983.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        edges = [width * k // PANELS for k in range(PANELS + 1)]
        self.spans = list(itertools.pairwise(edges))
        self.panels = [np.zeros((b - a, width - a)) for a, b in self.spans]  # S[a:b, a:]

    def add_rows(self, x: np.ndarray, product: np.ndarray) -> None:
        """Add the rows of a (N, D) array; `product` is an array of `product_size(D)` to work in."""
        if len(x):
            mean = x.mean(axis=0, dtype=np.float64)
            rows = np.empty((len(x) + 1, mean.size))  # one product for both terms
            np.subtract(x, mean, out=rows[:-1])
            rows[-1] = self._shift(len(x), mean)
            for panel, (a, b) in zip(self.panels, self.spans, strict=True):
                out = product[: panel.size].reshape(panel.shape)
                panel += np.matmul(rows[:, a:b].T, rows[:, a:], out=out)

    def add(self, other: Moments) -> None:
        """Add the rows of another `Moments`."""
        if other.count:
            jump = self._shift(other.count, other.mean)
            for panel, theirs, (a, b) in zip(self.panels, other.panels, self.spans, strict=True):
                panel += theirs
                panel += np.multiply.outer(jump[a:b], jump[a:])

    def without(self, part: Moments) -> Moments:
        """The moments of the rows that are not in `part`."""
        rest = Moments(self.mean.size)
        rest.count = self.count - part.count
        rest.mean = (self.count * self.mean - part.count * part.mean) / rest.count
        jump = (part.mean - rest.mean) * np.sqrt(part.count * rest.count / self.count)
        for left, mine, theirs, (a, b) in zip(
            rest.panels, self.panels, part.panels, self.spans, strict=True
        ):
            left += mine
            left -= theirs
            left -= np.multiply.outer(jump[a:b], jump[a:])
        return rest

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance, `S / (count - 1)`, (D, D)."""
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 samples. Received {self.count}.")
        full = np.empty((self.mean.size, self.mean.size))
        for panel, (a, b) in zip(self.panels, self.spans, strict=True):
            full[a:b, a:] = panel
            full[a:, a:b] = panel.T
        full /= self.count - 1
        return full

    def _shift(self, count, mean):
        """Update count and mean; returns the row `sqrt(ab/(a+b)) (mean_b - mean_a)`."""
        step = mean - self.mean
        total = self.count + count
        jump = step * np.sqrt(self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total
        return jump


def product_size(width: int) -> int:
    """The number of elements of the largest panel of S."""
    return -(-width // PANELS) * width


class Statistics:
    """Mean and covariance of (N, D) features that come in batches, in one pass and float64.

    Memory is half of `blocks` matrices of D x D, and 400 rows a block, for any number of samples.
    A fixed random permutation assigns each group of `blocks` consecutive rows to the blocks, one
    row each. The blocks therefore have equal sizes up to one row. They do not depend on the batch
    size, and labels that repeat with a period are spread over all blocks.

    Args:
        blocks: The number of blocks: 20 for samples, whose interval needs them; 1 for a
            reference.

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
        self._rows = self._product = None
        self._start = self._folded = self._filled = 0

    def update(self, features: np.ndarray) -> None:
        """Add a batch of features (N, D).

        Raises:
            ValueError: For another width than before, another rank, or a value that is not finite.
        """
        x = self._check(np.asarray(features))
        if self._parts is None:
            self._parts = [Moments(x.shape[1]) for _ in range(self.blocks)]
            self._rows = np.zeros((ROWS_PER_BLOCK * self.blocks, x.shape[1]), np.float32)
            self._product = np.empty(product_size(x.shape[1]))
        self._rows = self._rows.astype(np.result_type(self._rows, x), copy=False)
        while len(x):
            room = len(self._rows) - self._filled
            self._rows[self._filled : self._filled + len(x[:room])] = x[:room]
            self._filled += len(x[:room])
            x = x[room:]
            if self._filled == len(self._rows):
                self._fold()

    def merge(self, other: Statistics) -> None:
        """Add all rows of another `Statistics` with the same number of blocks, block by block."""
        if other.blocks != self.blocks:
            raise ValueError(
                "Statistics are merged block by block and need the same number of blocks. "
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
            raise ValueError("There are no samples yet. Call `update(features)` first.")
        self._fold()
        return self._parts

    def total(self, which: Iterable[int] | None = None) -> Moments:
        """The moments of the rows of these blocks; of all blocks by default."""
        parts = self.parts()
        chosen = range(self.blocks) if which is None else which
        total = Moments(parts[0].mean.size)
        for j in chosen:
            total.add(parts[j])
        return total

    @property
    def count(self) -> int:
        """The number of rows so far."""
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
        """Add the rows gathered so far to their blocks."""
        if self._rows is None:
            return
        block = dealt(self._start + self._folded, self._filled - self._folded, self.blocks)
        rows = self._rows[self._folded : self._filled]
        for j in range(self.blocks):
            self._parts[j].add_rows(rows[block == j], self._product)
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
        if not np.isfinite(x.sum(dtype=np.float64)):
            row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
            raise ValueError(f"Features must be finite. Received NaN or infinity in row {row}.")
        return x
