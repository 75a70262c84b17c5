"""What every sampler shares: the grid of times and the walk along it."""

import abc

import numpy as np
from keras import ops

from keras_meanflow.parts.part import Configurable


class Sampler(Configurable, abc.ABC):
    """Walks from t = 1 (noise) to t = 0 (data); a subclass writes `step`.

    One that remembers velocities from step to step also writes `walk`, which hands them to `step`.
    One that adds fresh noise on its way says so by `noises` and finds it in `walk`.

    Args:
        steps: number of equal steps.
        times: the grid itself, falling from 1 to 0, instead of equal steps.
    """

    steps: int
    times: tuple | None

    def __post_init__(self):
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
    def grid(self):
        """The times visited, float32, from 1 to 0."""
        if self.times is not None:
            return np.asarray(self.times, "float32")
        return np.linspace(1.0, 0.0, self.steps + 1, dtype="float32")

    @property
    def calls(self):
        """How often a walk calls u; with guidance each call runs the network twice."""
        return len(self.grid) - 1

    @property
    def noises(self):
        """How many arrays of noise a walk takes: the start, and what is added on the way."""
        return 1

    def freeze(self):
        """The sampler that does the same at every walk: itself, unless it learns."""
        return self

    def __call__(self, u, z, *fresh):
        """The sample at t = 0 that starts from noise `z` (B, ...); `fresh`: further noise."""
        return self.walk(lambda *arguments: self.step(u, *arguments), z, *fresh)

    def walk(self, step, z):
        """The same with `step`, which has u bound and is compiled perhaps."""
        z, ones = start(z)
        for t, r in zip(self.grid[:-1], self.grid[1:], strict=True):
            z = step(z, float(r) * ones, float(t) * ones)
        return z

    @abc.abstractmethod
    def step(self, u, z, r, t):
        """`z` at time r from `z` at time t; r, t: (B,)."""


def start(z):
    """`z` as a tensor, and a one for each of its rows."""
    z = ops.convert_to_tensor(z)
    return z, ops.ones((ops.shape(z)[0],), dtype="float32")


def shifted_times(steps, shift):
    """The grid of `steps` equal steps, each time t moved to `s t / (1 + (s - 1) t)`.

    A shift s above 1 takes shorter steps near the noise; 1.5 in Decoupled MeanFlow at 512 pixels.

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
