"""Jumps all the way to the data, each followed by fresh noise."""

from collections.abc import Callable

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import part
from keras_meanflow.parts.rows import per_row
from keras_meanflow.samplers.base import Sampler, start


@part
class Restart(Sampler):
    """`x = z_t - t u(z_t, 0, t)`, then `z_r = (1 - r) x + r e` with fresh noise e, step by step.

    `generate` draws the noise of image i and step k from (seed, i, k), so the image depends on
    nothing else. This is the sampler of consistency models.

    Example:
        >>> flow_map.generate(labels, sampler=Restart(steps=4))
        >>> x = Restart(steps=2)(u, e, e_fresh)

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `restart_sampler`.
    """

    steps: int = 2
    times: tuple | None = None

    @property
    def noises(self) -> int:
        """See `Sampler.noises`: fresh noise after every step except the last."""
        return len(self.grid) - 1

    def walk(self, step: Callable, z: Tensor, *fresh: Tensor) -> Tensor:
        """See `Sampler.walk`."""
        if len(fresh) != self.noises - 1:
            raise ValueError(
                f"{self.noises - 1} arrays of fresh noise are added on the way. "
                f"Received: {len(fresh)}."
            )
        z, ones = start(z)
        added = [*map(ops.convert_to_tensor, fresh), ops.zeros_like(z)]
        for t, r, e in zip(self.grid[:-1], self.grid[1:], added, strict=True):
            z = step(z, float(r) * ones, float(t) * ones, e)
        return z

    def step(self, u: Callable, z: Tensor, r: Tensor, t: Tensor, e: Tensor) -> Tensor:
        """`z` at time r: a jump from t to the data, then fresh noise e."""
        x = z - per_row(t, z) * u(z, 0.0 * t, t)
        return (1.0 - per_row(r, z)) * x + per_row(r, z) * e
