"""The base of all samplers: the grid of times and the walk along it."""

import abc
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable


class Sampler(Configurable, abc.ABC):
    """Walks from t = 1 (noise) to t = 0 (data); a subclass writes `step`.

    A subclass that keeps velocities from step to step also writes `walk`, which passes them to
    `step`. A subclass that adds fresh noise overrides `noises`, and gets the noise in `walk`.

    Args:
        steps: number of equal steps.
        times: the grid of times, falling from 1 to 0, instead of equal steps.
    """

    steps: int
    times: tuple | None

    def __post_init__(self) -> None:
        if self.times is None:
            if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
                raise ValueError(f"steps must be an integer >= 1. Received: {self.steps!r}.")
            return
        times = np.asarray(self.times, "float32")
        if times.ndim != 1 or len(times) < 2 or times[0] != 1.0 or times[-1] != 0.0:
            raise ValueError(f"times must run from 1 to 0. Received: {self.times}.")
        if np.any(np.diff(times) >= 0.0):
            raise ValueError(f"times must fall strictly. Received: {self.times}.")

    @property
    def grid(self) -> np.ndarray:
        """The times visited, float32, from 1 to 0."""
        if self.times is not None:
            return np.asarray(self.times, "float32")
        return np.linspace(1.0, 0.0, self.steps + 1, dtype="float32")

    @property
    def calls(self) -> int | None:
        """How often a walk calls u; with guidance each call runs the network twice."""
        return len(self.grid) - 1

    @property
    def noises(self) -> int:
        """How many arrays of noise a walk takes: the start, and the noise that it adds later."""
        return 1

    def freeze(self) -> "Sampler":
        """A sampler that takes the same steps at every walk: itself, unless it learns."""
        return self

    def __call__(self, u: Callable, z: Tensor, *fresh: Tensor) -> Tensor:
        """The sample at t = 0 that starts from noise `z` (B, ...); `fresh`: further noise."""
        return self.walk(lambda *arguments: self.step(u, *arguments), z, *fresh)

    def walk(self, step: Callable, z: Tensor) -> Tensor:
        """The same, with `self.step` bound to u as `step`, which may be compiled."""
        z, ones = start(z)
        for t, r in zip(self.grid[:-1], self.grid[1:], strict=True):
            z = step(z, float(r) * ones, float(t) * ones)
        return z

    @abc.abstractmethod
    def step(self, u: Callable, z: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """`z` at time r from `z` at time t; r, t: (B,)."""


def start(z: Tensor) -> tuple[Tensor, Tensor]:
    """`z` as a tensor, and ones (B,)."""
    z = ops.convert_to_tensor(z)
    return z, ops.ones((ops.shape(z)[0],), dtype="float32")


def shifted_times(steps: int, shift: float) -> tuple[float, ...]:
    """The grid of `steps` equal steps, with each time t moved to `s t / (1 + (s - 1) t)`.

    A shift s above 1 gives shorter steps near the noise; 1.5 in Decoupled MeanFlow at 512 pixels.

    Raises:
        ValueError: for steps below 1, or a shift that is not positive.

    Example:
        >>> Jump(times=shifted_times(4, 1.5))

    References:
        Esser et al., Scaling Rectified Flow Transformers (arXiv 2403.03206), Eq. 23; kyungmnlee/dmf
        `get_tsteps`.
    """
    if steps < 1 or not shift > 0.0:
        raise ValueError(f"steps >= 1 and shift > 0. Received: steps={steps}, shift={shift}.")
    t = np.linspace(1.0, 0.0, steps + 1)
    return tuple((shift * t / (1.0 + (shift - 1.0) * t)).tolist())
