"""A known truth to compare with: the velocity of a mixture of Gaussians in closed form."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianMixture:
    """`x ~ sum_k p_k N(mu_k, s^2 I)` on the linear path, in float64.

    With `sigma_t^2 = (1 - t)^2 s^2 + t^2` and the posterior `w_k(z) ~ p_k N(z; (1 - t) mu_k,
    sigma_t^2 I)` the marginal velocity is
    `E[e - x | z] = sum_k w_k ((z - (1 - t) mu_k) (t - (1 - t) s^2) / sigma_t^2 - mu_k)`.

    Args:
        centres: (k, d) means.
        s: standard deviation.
        shares: (k,) weights; equal by default.

    Example:
        >>> v = GaussianMixture(np.zeros((1, 2)), 1.0).velocity(z, t)  # z (n, 2), t (n,)
    """

    centres: np.ndarray
    s: float
    shares: np.ndarray | None = None

    @classmethod
    def ring(cls, centres: int = 8, radius: float = 2.0, s: float = 0.2) -> GaussianMixture:
        """The distribution of the data of the task `gaussian`."""
        angle = 2.0 * np.pi * np.arange(centres) / centres
        return cls(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), s)

    def velocity(self, z: np.ndarray, t: np.ndarray, condition: Any = None) -> np.ndarray:
        """The marginal velocity (n, d) at `z` (n, d) and `t` (n,); t > 0 if s = 0."""
        del condition
        z, t = np.asarray(z, "float64"), np.asarray(t, "float64")[:, None, None]
        from_means = z[:, None] - (1.0 - t) * self.centres  # (n, k, d)
        variance = (1.0 - t) ** 2 * self.s**2 + t**2  # (n, 1, 1)
        log_w = -0.5 * (from_means**2).sum(-1) / variance[..., 0]
        if self.shares is not None:
            log_w = log_w + np.log(self.shares)
        w = np.exp(log_w - log_w.max(axis=1, keepdims=True))
        w = (w / w.sum(axis=1, keepdims=True))[..., None]
        velocities = from_means * (t - (1.0 - t) * self.s**2) / variance - self.centres
        return (w * velocities).sum(axis=1)
