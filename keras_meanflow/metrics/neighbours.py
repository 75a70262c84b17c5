"""Precision, recall, density and coverage: which points are in which k-nearest-neighbour balls."""

from __future__ import annotations

import numpy as np

from keras_meanflow.metrics.tiles import check_pair, tiles


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> tuple[float, float]:
    """The share of samples in a real ball (precision), and of real rows in a sample's (recall).

    The radius of a row's ball is the distance to its k-th nearest neighbour in the same set. The
    surface belongs to the ball.

    Args:
        real: Features of the reference set, (M, D); may be a `np.memmap`.
        fake: Features of the samples, (N, D); may be a `np.memmap`. Usually M = N.
        k: The neighbour that sets the radius.

    Raises:
        ValueError: When widths disagree, or a set has no more than k rows.

    Example:
        >>> precision, recall = precision_recall(real, fake)

    References:
        Kynkaanniemi et al., Improved Precision and Recall Metric, 2019, arXiv 1904.06991.
    """
    _check(real, fake, k)
    precision = np.mean(_balls_around(fake, real, radii(real, k)) > 0)
    recall = np.mean(_balls_around(real, fake, radii(fake, k)) > 0)
    return float(precision), float(recall)


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> tuple[float, float]:
    """Density, real balls per sample over k, and coverage, the share of real balls with a sample.

    `density = 1/(k N) sum_j sum_i [y_j in ball_k(x_i)]`,
    `coverage = 1/M sum_i [some y_j in ball_k(x_i)]`. A perfect model has an expected density of 1
    and an expected coverage of `1 - (M-1)...(M-k) / ((M+N-1)...(M+N-k))`: 0.97 for k = 5 and M = N.

    Args:
        real: Features of the reference set, (M, D); may be a `np.memmap`.
        fake: Features of the samples, (N, D); may be a `np.memmap`.
        k: The neighbour that sets the radius.

    Raises:
        ValueError: When widths disagree, or a set has no more than k rows.

    Example:
        >>> density, coverage = density_coverage(real, fake)

    References:
        Naeem et al., Reliable Fidelity and Diversity Metrics, 2020, arXiv 2002.09797.
    """
    _check(real, fake, k)
    radius = radii(real, k)
    inside, covered = 0, np.zeros(len(real), bool)
    for _, y in tiles(fake):
        for i, x in tiles(real):
            hits = _squared_distances(y, x) <= radius[i : i + len(x)]
            inside += int(hits.sum())
            covered[i : i + len(x)] |= hits.any(axis=0)
    return inside / (k * len(fake)), float(covered.mean())


def radii(features: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each row to its k-th nearest neighbour among the others, (N,).

    Args:
        features: (N, D) with N > k.
        k: The number of the neighbour; 1 is the nearest.

    Example:
        >>> radii(np.array([[0.0], [1.0], [3.0]]), 1)
        array([1., 1., 4.])
    """
    result = np.empty(len(features))
    for i, x in tiles(features):
        nearest = np.full((len(x), k), np.inf)
        for j, y in tiles(features):
            squared = _squared_distances(x, y)
            if i == j:
                np.fill_diagonal(squared, np.inf)
            both = np.concatenate([nearest, squared], axis=1)
            nearest = np.partition(both, k - 1, axis=1)[:, :k]
        result[i : i + len(x)] = nearest.max(axis=1)
    return result


def _balls_around(points, centres, radius):
    """The number of balls that hold each point, (points,)."""
    count = np.zeros(len(points), np.int64)
    for i, x in tiles(points):
        for j, y in tiles(centres):
            hits = _squared_distances(x, y) <= radius[j : j + len(y)]
            count[i : i + len(x)] += hits.sum(axis=1)
    return count


def _squared_distances(x, y):
    """`|x|^2 + |y|^2 - 2 x.y`, with rounding errors set to 0, so that equal rows give 0. (N, M)."""
    scale = np.square(x).sum(axis=1)[:, None] + np.square(y).sum(axis=1)
    squared = scale - 2 * (x @ y.T)
    squared[squared < 1e-13 * scale] = 0
    return squared


def _check(real, fake, k):
    check_pair(real, fake)
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"The {k}-th neighbour needs more than {k} rows. "
            f"Received {len(real)} real and {len(fake)} generated."
        )
