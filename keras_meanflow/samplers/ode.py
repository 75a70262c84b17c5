"""Solvers of dz/dt = u(z, t, t), the instantaneous velocity."""

from keras_meanflow.configurable import part
from keras_meanflow.paths import per_row
from keras_meanflow.samplers.base import Sampler


@part
class Euler(Sampler):
    """`z_r = z_t - (t - r) u(z_t, t, t)`: one network call a step, first order."""

    steps: int = 50
    times: tuple | None = None

    def step(self, u, z, r, t):
        """See `Sampler.step`."""
        return z - per_row(t - r, z) * u(z, t, t)


@part
class Heun(Sampler):
    """Euler's step, then the mean of the velocities at both ends: two calls, second order."""

    steps: int = 25
    times: tuple | None = None

    def step(self, u, z, r, t):
        """See `Sampler.step`."""
        step, v = per_row(t - r, z), u(z, t, t)
        return z - 0.5 * step * (v + u(z - step * v, r, r))
