"""Jumps of the average velocity."""

from collections.abc import Callable

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import part
from keras_meanflow.parts.rows import per_row
from keras_meanflow.samplers.base import Sampler


@part
class Jump(Sampler):
    """`z_r = z_t - (t - r) u(z_t, r, t)`: one network call a step, exact for an exact u.

    Example:
        >>> x = Jump(steps=1)(u, e)  # x = e - u(e, 0, 1)
        >>> x = Jump(times=(1.0, 0.6, 0.0))(u, e)

    References:
        Mean Flows (arXiv 2505.13447), Eq. 12 and Alg. 2.
    """

    steps: int = 1
    times: tuple | None = None

    def step(self, u: Callable, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """See `Sampler.step`."""
        return z - per_row(t - r, z) * u(z, r, t)  # Eq. 12
