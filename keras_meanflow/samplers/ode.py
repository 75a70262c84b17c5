"""Solvers of dz/dt = u(z, t, t), the instantaneous velocity."""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import part
from keras_meanflow.parts.rows import per_row
from keras_meanflow.samplers.base import Sampler, start


@part
class Euler(Sampler):
    """`z_r = z_t - (t - r) u(z_t, t, t)`: one network call a step, first order."""

    steps: int = 50
    times: tuple | None = None

    def step(self, u: Callable, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """See `Sampler.step`."""
        return z - per_row(t - r, z) * u(z, t, t)


@part
class Heun(Sampler):
    """Euler's step, then the mean of the velocities at both ends: two calls, second order."""

    steps: int = 25
    times: tuple | None = None

    @property
    def calls(self) -> int:
        """See `Sampler.calls`."""
        return 2 * super().calls

    def step(self, u: Callable, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """See `Sampler.step`."""
        step, v = per_row(t - r, z), u(z, t, t)
        return z - 0.5 * step * (v + u(z - step * v, r, r))


@part
class AdamsBashforth2(Sampler):
    """`z_r = z_t - h v_t - h^2/(2 h') (v_t - v_t')`: one call a step, second order.

    h = t - r is this step and h' = t' - t the step before; the first step is Euler's. With equal
    steps this is the textbook formula `z - h (3 v_t - v_t') / 2`.

    Example:
        >>> x = AdamsBashforth2(steps=20)(u, e)

    References:
        Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I, section III.5.
    """

    steps: int = 50
    times: tuple | None = None

    def walk(self, step: Callable, z: Tensor) -> Tensor:
        """See `Sampler.walk`."""
        z, ones = start(z)
        v, h_before = ops.zeros_like(z), np.inf  # Euler's step: no weight on the difference
        for t, h in zip(self.grid[:-1], -np.diff(self.grid), strict=True):
            weights = np.array([h, h**2 / (2.0 * h_before)], "float32")
            z, v = step(z, v, float(t) * ones, ops.convert_to_tensor(weights))
            h_before = h
        return z

    def step(
        self, u: Callable, z: Tensor, v_before: Tensor, t: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`z` at the next time, and v at t. `v_before`: v at t'; weights: h and h^2/(2 h')."""
        v = u(z, t, t)
        return z - weights[0] * v - weights[1] * (v - v_before), v
