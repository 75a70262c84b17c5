"""Frechet distance of two Gaussians, its interval, and its limit for infinitely many samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from keras_meanflow.metrics.estimate import Estimate, jackknife
from keras_meanflow.metrics.reference import Reference, check_moments
from keras_meanflow.metrics.statistics import Moments, Statistics


def trace_of_root(sigma1: np.ndarray, sigma2: np.ndarray) -> float:
    """`tr (sigma1 sigma2)^(1/2)`, as the sum of the singular values of `F1^T F2`, `F F^T = sigma`.

    Every factor F gives the same singular values. F is the Cholesky factor, or comes from an
    eigen-decomposition where sigma is singular. No root is taken of the product's eigenvalues:
    the rounding error is 1e-16 of the largest eigenvalue, and not the square root of that.

    Args:
        sigma1: A covariance, (D, D).
        sigma2: Another covariance, (D, D).

    Example:
        >>> trace_of_root(np.diag([4.0, 1.0]), np.eye(2))
        3.0
    """
    product = _factor(sigma1).T @ _factor(sigma2)
    return float(np.linalg.svd(product, compute_uv=False).sum())


def trace_of_root_scipy(sigma1: np.ndarray, sigma2: np.ndarray) -> float:
    """`tr (sigma1 sigma2)^(1/2)` by `scipy.linalg.sqrtm`, as in pytorch-fid and ADM.

    For a singular covariance, scipy's root is not unique or not finite: use `trace_of_root`.

    Raises:
        ImportError: When scipy is not installed.
        ValueError: When the root is not finite.
    """
    from scipy.linalg import sqrtm

    root = sqrtm(sigma1 @ sigma2)
    if not np.isfinite(root).all():
        raise ValueError("scipy.linalg.sqrtm found no finite root. Use trace_of_root.")
    return float(np.trace(root).real)


def frechet_distance(
    mu1: np.ndarray,
    sigma1: np.ndarray,
    mu2: np.ndarray,
    sigma2: np.ndarray,
    *,
    trace_of_root: Callable[[np.ndarray, np.ndarray], float] = trace_of_root,
) -> float:
    """`|mu1 - mu2|^2 + tr(sigma1 + sigma2 - 2 (sigma1 sigma2)^(1/2))`, the squared distance.

    Args:
        mu1: Mean of the first set of features, (D,).
        sigma1: Its covariance, (D, D).
        mu2: Mean of the second set.
        sigma2: Its covariance.
        trace_of_root: The function that computes the trace of the root.

    Raises:
        ValueError: When widths disagree or a value is not finite.

    Example:
        >>> frechet_distance(np.zeros(1), np.eye(1), np.ones(1), 4 * np.eye(1))
        2.0

    References:
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, arXiv 1706.08500.
    """
    (mu1, sigma1), (mu2, sigma2) = check_moments(mu1, sigma1), check_moments(mu2, sigma2)
    _check_widths(mu1.size, mu2.size)
    step = mu1 - mu2
    traces = np.trace(sigma1) + np.trace(sigma2)
    return float(step @ step + traces - 2 * trace_of_root(sigma1, sigma2))


def frechet_with_interval(samples: Statistics, reference: Reference) -> Estimate:
    """The Frechet distance with the jackknife standard error over the samples' blocks.

    The error is due to the samples; the reference counts as fixed. With few samples, the distance
    is also biased upwards. The interval does not show this bias; `frechet_infinity` estimates it.

    Args:
        samples: Statistics of generated samples, with at least two blocks.
        reference: Statistics to compare with.

    Raises:
        ValueError: When widths disagree, or fewer than two blocks hold samples.

    Example:
        >>> estimate = frechet_with_interval(samples, reference)
        >>> print(f"{estimate.value:.2f} +- {1.96 * estimate.standard_error:.2f}")
    """
    parts = [part for part in samples.parts() if part.count]
    if len(parts) < 2:
        raise ValueError(f"An interval needs samples in 2 blocks or more. Received {len(parts)}.")
    total = samples.total()
    value = frechet_distance(total.mean, total.covariance, reference.mean, reference.covariance)
    distance = _distance_to(reference)
    return jackknife(value, [distance(total.without(part)) for part in parts])


def frechet_infinity(samples: Statistics, reference: Reference) -> float:
    """The Frechet distance that infinitely many samples would have: the intercept of a line in 1/N.

    The bias of a Frechet distance is proportional to 1/N. The line is fitted to three points: the
    means over 4 halves and over 4 three-quarters of the samples, and the value of all samples.

    Args:
        samples: Statistics of generated samples, with a multiple of 4 blocks.
        reference: Statistics to compare with; the bias due to its size remains.

    Raises:
        ValueError: When widths disagree, or `blocks` is not a multiple of 4.

    Example:
        >>> limit = frechet_infinity(samples, reference)

    References:
        Chong, Forsyth, Effectively Unbiased FID and Inception Score, 2020, arXiv 1911.07023.
    """
    if samples.blocks % 4:
        raise ValueError(f"Halves and quarters need blocks % 4 == 0. Received {samples.blocks}.")
    distance, quarter = _distance_to(reference), samples.blocks // 4
    inverse_n, values = [], []
    for quarters in (2, 3, 4):
        turns = range(4 if quarters < 4 else 1)
        chosen = [samples.total(_turned(turn, quarters, quarter)) for turn in turns]
        inverse_n.append(np.mean([1 / part.count for part in chosen]))
        values.append(np.mean([distance(part) for part in chosen]))
    slope_and_intercept = np.polyfit(inverse_n, values, 1)
    return float(slope_and_intercept[1])


def _turned(turn, quarters, quarter):
    """The blocks of some consecutive quarters, starting at quarter `turn`, modulo 4."""
    start = turn * quarter
    return [(start + j) % (4 * quarter) for j in range(quarters * quarter)]


def _distance_to(reference) -> Callable[[Moments], float]:
    """The Frechet distance to one reference, whose factor is computed once.

    It is twice as fast as `frechet_distance`. For singular covariances the error is 1e-8 of their
    largest eigenvalue.
    """
    factor, trace = _factor(reference.covariance), np.trace(reference.covariance)

    def distance(samples):
        _check_widths(samples.mean.size, reference.mean.size)
        step, sigma = samples.mean - reference.mean, samples.covariance
        squared = np.linalg.eigvalsh(factor.T @ (sigma @ factor))
        root = np.sqrt(np.maximum(squared, 0)).sum()
        return float(step @ step + np.trace(sigma) + trace - 2 * root)

    return distance


def _factor(sigma):
    """F with `F F^T = sigma`, (D, D): from Cholesky, or from eigenvectors if sigma is singular."""
    noise = len(sigma) * np.finfo(np.float64).eps * np.diagonal(sigma).max()
    try:
        lower = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError:
        return _eigen_factor(sigma)
    return lower if np.diagonal(lower).min() ** 2 > noise else _eigen_factor(sigma)


def _eigen_factor(sigma):
    """F with `F F^T = sigma`, (D, D); eigenvalues at the level of rounding count as 0."""
    values, vectors = np.linalg.eigh(sigma)
    noise = np.sqrt(len(values)) * np.finfo(np.float64).eps * values.max()
    return vectors * np.sqrt(np.where(values > noise, values, 0))


def _check_widths(width1, width2):
    if width1 != width2:
        raise ValueError(
            "Both sets of features must have the same width; these come from two networks. "
            f"Received {width1} and {width2}."
        )
