"""Kernel Inception Distance: the unbiased squared MMD with the kernel `(x.y / D + 1)^3`."""

from __future__ import annotations

import numpy as np

from keras_meanflow.metrics.estimate import Estimate, dealt, jackknife
from keras_meanflow.metrics.tiles import check_pair, tiles


def kid(
    real: np.ndarray,
    fake: np.ndarray,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """The mean and the standard deviation of the KID over random subsets, as papers report it.

    torch-fidelity draws the same subsets for the same seed, with `fake` as its input 1.

    Args:
        real: Features of the reference set, (M, D); may be a `np.memmap`.
        fake: Features of the samples, (N, D); may be a `np.memmap`.
        subsets: The number of subsets.
        subset_size: Rows of `real` and of `fake` in a subset.
        seed: Seeds the draw of the subsets.

    Raises:
        ValueError: When widths disagree, or a set is smaller than a subset.

    Example:
        >>> mean, deviation = kid(real, fake, subset_size=500)

    References:
        Binkowski et al., Demystifying MMD GANs, 2018, arXiv 1801.01401.
    """
    check_pair(real, fake)
    if min(len(real), len(fake)) < subset_size:
        raise ValueError(
            f"A KID subset must not exceed either set. Received subset_size={subset_size}, "
            f"{len(real)} real and {len(fake)} generated features."
        )
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        y = fake[rng.choice(len(fake), subset_size, replace=False)].astype(np.float64)
        x = real[rng.choice(len(real), subset_size, replace=False)].astype(np.float64)
        values.append(_unbiased(_within(x), _within(y), _kernel(x, y).mean()))
    return float(np.mean(values)), float(np.std(values))


def kid_with_interval(real: np.ndarray, fake: np.ndarray, *, blocks: int = 20) -> Estimate:
    """The KID of all pairs, with the jackknife standard error over blocks of the samples.

    Every pair is computed once, in tiles: (M^2 + N^2) / 2 + M N kernels, memory of two tiles. The
    error is due to the samples; the reference counts as fixed.

    Args:
        real: Features of the reference set, (M, D); may be a `np.memmap`.
        fake: Features of the samples, (N, D); may be a `np.memmap`.
        blocks: The number of blocks of samples.

    Raises:
        ValueError: When widths disagree, or there are fewer than 2 real or 2 `blocks` samples.

    Example:
        >>> low, high = kid_with_interval(real, fake).interval
    """
    check_pair(real, fake)
    if len(fake) < 2 * blocks:
        raise ValueError(f"{blocks} blocks need {2 * blocks} samples. Received {len(fake)}.")
    member = np.eye(blocks)[dealt(0, len(fake), blocks)]  # (N, blocks), one-hot
    size = member.sum(axis=0)
    ones = np.ones((len(real), 1))
    xx = float(_pairs_within(real, ones)[0, 0]) / (len(real) * (len(real) - 1))
    yy = _pairs_within(fake, member)  # (blocks, blocks)
    xy = _pairs_between(real, fake, member)  # (blocks,)

    def without(j):
        keep = np.arange(blocks) != j
        n = size[keep].sum()
        inside = yy[np.ix_(keep, keep)].sum() / (n * (n - 1))
        return _unbiased(xx, inside, xy[keep].sum() / (len(real) * n))

    value = without(-1)  # no block left out
    return jackknife(value, [without(j) for j in range(blocks)])


def _kernel(x, y):
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x):
    """The mean kernel of the pairs of different rows."""
    gram = _kernel(x, x)
    return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))


def _unbiased(xx, yy, xy):
    return float(xx + yy - 2 * xy)


def _pairs_within(features, member):
    """Sums of the kernel over pairs of different rows, per pair of blocks."""
    total = np.zeros((member.shape[1],) * 2)
    for i, x in tiles(features):
        left = member[i : i + len(x)]
        for j, y in tiles(features[: i + len(x)]):
            gram = _kernel(x, y)
            if i == j:
                np.fill_diagonal(gram, 0)
            sums = left.T @ gram @ member[j : j + len(y)]
            total += sums if i == j else sums + sums.T
    return total


def _pairs_between(real, fake, member):
    """Sums of the kernel over pairs of a real row and a sample, per block of samples."""
    total = np.zeros(member.shape[1])
    for i, y in tiles(fake):
        for _, x in tiles(real):
            total += _kernel(x, y).sum(axis=0) @ member[i : i + len(y)]
    return total
