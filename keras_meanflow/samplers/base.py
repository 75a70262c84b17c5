"""What every sampler shares: the grid of times and the walk along it."""

import abc

import numpy as np
from keras import ops

from keras_meanflow.configurable import Configurable


class Sampler(Configurable, abc.ABC):
    """Walks from t = 1 (noise) to t = 0 (data); a subclass writes `step`.

    One that remembers velocities from step to step also writes `walk`, which hands them to `step`.

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

    def freeze(self):
        """The sampler that does the same at every walk: itself, unless it learns."""
        return self

    def __call__(self, u, z):
        """The sample at t = 0 that starts from noise `z` (B, ...)."""
        return self.walk(lambda *arguments: self.step(u, *arguments), z)

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
