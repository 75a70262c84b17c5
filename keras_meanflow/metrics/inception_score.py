"""Inception Score, in one pass over the logits."""

from __future__ import annotations

import numpy as np


class InceptionScore:
    """`exp(E KL(p(y|x) || p(y)))` of logits that come in batches; mean and deviation over splits.

    Rows are shuffled and split as in torch-fidelity with the same seed. The split of every row is
    known before the first row comes, so that memory is one row of sums per split.

    Args:
        samples: The number of rows that will come.
        splits: The number of parts, each with its own score.
        seed: Seeds the shuffle; None keeps the order.

    Example:
        >>> score = InceptionScore(1000)
        >>> score.update(logits)
        >>> mean, deviation = score.result()

    References:
        Salimans et al., Improved Techniques for Training GANs, 2016, arXiv 1606.03498.
    """

    def __init__(self, samples: int, splits: int = 10, seed: int | None = 2020):
        if samples < splits:
            raise ValueError(f"{splits} splits need {splits} samples or more. Received {samples}.")
        order = np.arange(samples)
        if seed is not None:
            order = np.random.RandomState(seed).permutation(samples)
        self.samples, self.splits, self.seen = samples, splits, 0
        self._size = np.diff([j * samples // splits for j in range(splits + 1)])
        self._split = np.empty(samples, np.int64)
        self._split[order] = np.repeat(np.arange(splits), self._size)
        self._p = self._p_log_p = None

    def update(self, logits: np.ndarray) -> None:
        """Add a batch of logits (N, classes).

        Raises:
            ValueError: For another rank, a value that is not finite, or more rows than `samples`.
        """
        logits = np.asarray(logits, np.float64)
        if logits.ndim != 2 or not np.isfinite(logits).all():
            raise ValueError(f"Logits must be finite and (samples, classes). Got {logits.shape}.")
        if self.seen + len(logits) > self.samples:
            raise ValueError(
                f"The score was made for {self.samples} samples. "
                f"Received {self.seen + len(logits)}."
            )
        if self._p is None:
            self._p = np.zeros((self.splits, logits.shape[1]))
            self._p_log_p = np.zeros(self.splits)
        split = self._split[self.seen : self.seen + len(logits)]
        log_p = _log_softmax(logits)
        p = np.exp(log_p)
        member = np.eye(self.splits)[split]  # (N, splits), one-hot
        self._p += member.T @ p
        self._p_log_p += member.T @ (p * log_p).sum(axis=1)
        self.seen += len(logits)

    def result(self) -> tuple[float, float]:
        """The mean and the standard deviation of the splits' scores.

        Raises:
            ValueError: When fewer rows came than `samples`.
        """
        if self.seen != self.samples:
            raise ValueError(f"The score needs {self.samples} samples. Received {self.seen}.")
        q = self._p / self._size[:, None]
        q_log_q = np.sum(q * np.log(np.where(q > 0, q, 1)), axis=1)
        scores = np.exp(self._p_log_p / self._size - q_log_q)
        return float(scores.mean()), float(scores.std())


def inception_score(
    logits: np.ndarray, *, splits: int = 10, seed: int | None = 2020
) -> tuple[float, float]:
    """The mean and the standard deviation of the Inception Score of `splits` parts.

    Args:
        logits: (N, classes): class scores before the softmax.
        splits: The number of parts, each with its own score.
        seed: Seeds the shuffle, as in torch-fidelity; None keeps the order.

    Example:
        >>> mean, deviation = inception_score(10.0 * np.eye(10), splits=1)
    """
    score = InceptionScore(len(logits), splits, seed)
    score.update(logits)
    return score.result()


def _log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
