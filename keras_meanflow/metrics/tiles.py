"""Features are read one tile at a time, so that they can stay on disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

TILE = 1000  # rows of each side held as float64 at once


def tiles(features: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, float64 rows) of consecutive tiles of an array or `np.memmap`."""
    for start in range(0, len(features), TILE):
        yield start, np.asarray(features[start : start + TILE], np.float64)


def check_pair(real: np.ndarray, fake: np.ndarray) -> None:
    """Raise a ValueError for two sets of features whose widths differ."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            "Both sets of features must be (samples, width) with the same width. "
            f"Received {real.shape} real and {fake.shape} generated."
        )
