"""A known truth to compare with: a mixture of Gaussians, whose velocity is a closed form."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from keras_meanflow.studies.fields import average_velocity


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture:
    """`x ~ sum_k p_k N(mu_k, R diag(s^2) R^T)` on the linear path, in float64.

    Along the axes of R, with `sigma_t^2 = (1 - t)^2 s^2 + t^2` and the posterior
    `w_k(z) ~ p_k N(z; (1 - t) mu_k, sigma_t^2)`, the marginal velocity is
    `E[e - x | z] = sum_k w_k ((z - (1 - t) mu_k) (t - (1 - t) s^2) / sigma_t^2 - mu_k)`.
    With labels, the velocity of a class has the posterior over the centres of this class.

    Args:
        centres: (k, d) means.
        s: standard deviation, a number, or one for each axis (d,).
        shares: (k,) weights; equal by default.
        axes: (d, d) orthogonal matrix R, whose columns are the axes; the unit axes by default.
        labels: (k,) the class of each centre, 0 to C - 1; None without classes. Label C, the null
            label, stands for the whole mixture.

    Example:
        >>> v = GaussianMixture(np.zeros((1, 2)), 1.0).velocity(z, t)  # z (n, 2), t (n,)
    """

    centres: np.ndarray
    s: float | np.ndarray
    shares: np.ndarray | None = None
    axes: np.ndarray | None = None
    labels: np.ndarray | None = None

    @classmethod
    def ring(cls, centres: int = 8, radius: float = 2.0, s: float = 0.2) -> GaussianMixture:
        """The distribution of the data of the task `gaussian`."""
        angle = 2.0 * np.pi * np.arange(centres) / centres
        return cls(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), s)

    @classmethod
    def like_images(
        cls,
        size: int = 64,
        *,
        centres: int = 32,
        classes: int = 8,
        decay: float = 1.2,
        between: float = 0.2,
        seed: int = 0,
    ) -> GaussianMixture:
        """The distribution of the task `mixture`: variances fall along random axes by a power law.

        Axis i has the variance `(i + 1)^-decay` in expectation. The share `between` of it is of the
        centres, the rest of each Gaussian.

        Args:
            size: dimension d.
            centres: number of Gaussians; Gaussian k has the label k mod classes.
            classes: number of classes.
            decay: exponent of the spectrum.
            between: share of the variance that is between the Gaussians, in [0, 1).
            seed: of the axes and the centres.
        """
        draws = np.random.Generator(np.random.Philox(key=seed))
        spectrum = np.arange(1.0, size + 1.0) ** -decay
        axes, _ = np.linalg.qr(draws.standard_normal((size, size)))
        along = np.sqrt(between * spectrum) * draws.standard_normal((centres, size))
        labels = np.arange(centres) % classes
        return cls(along @ axes.T, np.sqrt((1.0 - between) * spectrum), axes=axes, labels=labels)

    @functools.cached_property
    def num_classes(self) -> int | None:
        """The number of classes, or None."""
        return None if self.labels is None else int(np.max(self.labels)) + 1

    @functools.cached_property
    def _axes(self):
        return np.eye(self.centres.shape[1]) if self.axes is None else self.axes

    @functools.cached_property
    def _along(self):
        """The centres in the coordinates of the axes."""
        return self.centres @ self._axes

    @functools.cached_property
    def _log_shares(self):
        """(C + 1, k) log weights of the centres for each label; without classes (1, k)."""
        k = len(self.centres)
        shares = np.full(k, 1.0 / k) if self.shares is None else np.asarray(self.shares)
        classes = np.arange(self.num_classes or 0)[:, None]
        with np.errstate(divide="ignore"):
            of_class = np.log(np.where(self.labels == classes, shares, 0.0))
            return np.concatenate([of_class.reshape(-1, k), np.log(shares)[None]])

    def velocity(self, z: np.ndarray, t: np.ndarray, condition: Any = None) -> np.ndarray:
        """The marginal velocity (n, d) at `z` (n, d) and `t` (n,), of labels (n,) if given.

        t must exceed 0 where s is 0.
        """
        z, t = np.asarray(z, "float64") @ self._axes, np.asarray(t, "float64")[:, None]
        variance = (1.0 - t) ** 2 * np.square(self.s) + t**2 + 0.0 * z  # (n, d)
        # |z - (1 - t) mu|^2 / variance, without what is the same for all centres.
        near = (1.0 - t) * (z / variance) @ self._along.T
        near -= 0.5 * (1.0 - t) ** 2 * (1.0 / variance) @ np.square(self._along).T
        log_w = near + self._log_shares[-1 if condition is None else np.asarray(condition)]
        w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
        mean = (w / w.sum(axis=1, keepdims=True)) @ self._along
        slope = (t - (1.0 - t) * np.square(self.s)) / variance
        return ((z - (1.0 - t) * mean) * slope - mean) @ self._axes.T

    def average_velocity(
        self,
        z: np.ndarray,
        r: np.ndarray,
        t: np.ndarray,
        condition: Any = None,
        *,
        steps: int = 64,
    ) -> np.ndarray:
        """The exact u(z, r, t), by `steps` Runge-Kutta steps; see `fields.average_velocity`."""
        return average_velocity(lambda z, t: self.velocity(z, t, condition), z, r, t, steps=steps)

    def one_step(self, e: np.ndarray, condition: Any = None, *, steps: int = 64) -> np.ndarray:
        """`x = e - u(e, 0, 1)`, the sample that an exact solver reaches from noise e (n, d)."""
        ones = np.ones(len(e))
        return e - self.average_velocity(e, 0.0 * ones, ones, condition, steps=steps)

    def moments(self, label: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The exact mean (d,) and covariance (d, d) of the data, of one class if given."""
        shares = np.exp(self._log_shares[-1 if label is None else label])
        shares = shares / shares.sum()
        mean = shares @ self.centres
        apart = self.centres - mean
        within = (self._axes * np.broadcast_to(np.square(self.s), len(mean))) @ self._axes.T
        return mean, within + (shares[:, None] * apart).T @ apart

    def sample(
        self, n: int, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """n samples, float32 (n, d), and their labels (n,) or None."""
        chosen = generator.choice(len(self.centres), n, p=np.exp(self._log_shares[-1]))
        noise = self.s * generator.standard_normal((n, self.centres.shape[1]))
        x = (self._along[chosen] + noise) @ self._axes.T
        labels = None if self.labels is None else self.labels[chosen].astype("int32")
        return x.astype("float32"), labels
