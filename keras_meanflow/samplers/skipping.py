"""Euler's method with fewer calls of the velocity: skipped steps use an extrapolated velocity."""

import abc
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.samplers.base import Sampler, start


class Extrapolation(Configurable, abc.ABC):
    """The velocity of a skipped step: `v^(t) = v_k + weight(t, t_k, t_p) (v_k - v_p)`.

    v_k and v_p are the results of the last two calls of u, at times t_k < t_p.
    """

    @abc.abstractmethod
    def weight(self, t: float, t_k: float, t_p: float) -> float:
        """The weight of `v_k - v_p` at time t <= t_k; 0 at t_k."""


@part
class LinearExtrapolation(Extrapolation):
    """`v^(t) = v_k + (t - t_k) (v_k - v_p) / (t_k - t_p)`: exact for a velocity linear in time."""

    def weight(self, t: float, t_k: float, t_p: float) -> float:
        """See `Extrapolation.weight`."""
        return (t - t_k) / (t_k - t_p)


@part
class Reuse(Extrapolation):
    """`v^(t) = v_k`: exact for a constant velocity; a skip of m steps is one long Euler step."""

    def weight(self, t: float, t_k: float, t_p: float) -> float:
        """See `Extrapolation.weight`."""
        return 0.0


class Skipping(Sampler):
    """Euler's method in which only some steps call u; a subclass chooses them in `walk`.

    Between two calls v^ does not depend on z. So the step at t_k that calls u, and the m steps
    skipped after it, add up to one update:

        z <- z - a v_k - b (v_k - v_p),    a = sum of h_j,    b = sum of h_j weight(t_j, t_k, t_p)

    Args:
        extrapolation: the estimate of the velocity of a skipped step.
    """

    extrapolation: Extrapolation

    def follow(
        self, step: Callable, z: Tensor, evaluated: tuple[int, ...]
    ) -> tuple[Tensor, list[Tensor]]:
        """The sample at t = 0 when the steps `evaluated` call u, and `mean (v - v^)^2` of each."""
        z, ones = start(z)
        v_k = v_p = ops.zeros_like(z)
        errors = []
        for t, weights in _plan(self.grid, evaluated, self.extrapolation):
            z, v, error = step(z, v_k, v_p, float(t) * ones, ops.convert_to_tensor(weights))
            v_k, v_p = v, v_k
            errors.append(error)
        return z, errors

    def step(
        self, u: Callable, z: Tensor, v_k: Tensor, v_p: Tensor, t: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`z` at the next call, v at t, and the error of extrapolating it from v_k and v_p.

        weights: a and b of the update, and the weight of `v_k - v_p` at t.
        """
        a, b, w = weights[0], weights[1], weights[2]
        v = u(z, t, t)
        error = ops.mean((v - v_k - w * (v_k - v_p)) ** 2)
        return z - a * v - b * (v - v_k), v, error


def _plan(grid, evaluated, extrapolation):
    """Yields the time of each call, and float32 a, b of its update and w of its prediction."""
    exact = grid.astype("float64")
    for j, k in enumerate(evaluated):
        stop = evaluated[j + 1] if j + 1 < len(evaluated) else len(grid) - 1
        b = w = 0.0
        if j >= 1:
            gap = exact[k], exact[evaluated[j - 1]]
            b = sum(
                (exact[i] - exact[i + 1]) * extrapolation.weight(exact[i], *gap)
                for i in range(k, stop)
            )
        if j >= 2:
            w = extrapolation.weight(exact[k], *exact[[evaluated[j - 1], evaluated[j - 2]]])
        yield grid[k], np.array([grid[k] - grid[stop], b, w], "float32")


@part
class FixedSkips(Skipping):
    """Calls u at the same steps `evaluated` in every walk, and extrapolates at the others.

    `BanditSampler.freeze` makes one from what it has learned. A walk reads nothing back from the
    device, so it can be exported.

    Args:
        evaluated: numbers of the steps that call u, rising: 0, 1, ..., the last step.
        steps: number of equal steps.
        times: the grid of times, falling from 1 to 0, instead of equal steps.
        extrapolation: the estimate of the velocity of a skipped step.

    Raises:
        ValueError: if `evaluated` does not rise from 0 and 1 to the last step.

    Example:
        >>> x = FixedSkips(steps=10, evaluated=(0, 1, 2, 5, 9))(u, e)
    """

    evaluated: tuple
    steps: int = 50
    times: tuple | None = None
    extrapolation: Extrapolation = LinearExtrapolation()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "evaluated", tuple(self.evaluated))
        last = len(self.grid) - 2
        rising = all(a < b for a, b in zip(self.evaluated, self.evaluated[1:], strict=False))
        ends = (*self.evaluated[:2], *self.evaluated[-1:]) == (*range(last + 1)[:2], last)
        if not (rising and ends):
            raise ValueError(
                f"evaluated must rise from 0, 1 to the last step, {last}. "
                f"Received: {self.evaluated}."
            )

    @property
    def calls(self) -> int:
        """See `Sampler.calls`."""
        return len(self.evaluated)

    def walk(self, step: Callable, z: Tensor) -> Tensor:
        """See `Sampler.walk`."""
        return self.follow(step, z, self.evaluated)[0]
