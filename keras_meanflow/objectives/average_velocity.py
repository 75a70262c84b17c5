"""Base of the average-velocity objectives: target v where r = t, a subclass's where r < t."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.problem import (
    LOGGED_OF_ALL,
    Draws,
    Problem,
    arguments_of,
    data_of,
    inputs_of,
)
from keras_meanflow.parts.derivatives import Derivative
from keras_meanflow.parts.rows import Rows, per_row


class Velocity(NamedTuple):
    """The velocity of some rows, and what was computed for it.

    The velocity is `v + kappa own`. `v`: its part without the network's own velocity; `kappa`:
    (rows,) weights of the network's own velocity, or None for zero; `own`: the network's own
    velocity if it has been computed, or None.
    """

    v: Any
    kappa: Any = None
    own: Any = None


class Below(NamedTuple):
    """The rows of a batch that may have r < t: the input of `AverageVelocity.average`."""

    z: Any
    r: Any
    t: Any
    condition: Any
    velocity: Velocity
    draws: Any

    def v(self, u: Callable) -> Tensor:
        """The velocity, including the part from the network's own velocity."""
        if self.velocity.kappa is None:
            return self.velocity.v
        return self.v_with(u(self.z, self.t, self.t, self.condition))

    def v_with(self, own: Tensor) -> Tensor:
        """The same, if the network's own velocity has been computed."""
        v, kappa, _ = self.velocity
        return v if kappa is None else v + per_row(kappa, v) * own  # MeanFlow, Eq. 21


def mean_flow_identity(
    derivative: Derivative, u: Callable, below: Below, v: Tensor, tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """`v - (t - r) du/dt` (MeanFlow, Eq. 10), and du/dt along the velocity `tangent`."""
    r, t = below.r, below.t
    tangents = (tangent, ops.zeros_like(r), ops.ones_like(t))
    du_dt = derivative(lambda z, r, t: u(z, r, t, below.condition), (below.z, r, t), tangents)
    return v - per_row(t - r, v) * du_dt, du_dt


class AverageVelocity(Objective):
    """Rows with r = t learn the velocity v; rows with r < t learn what `average` returns.

    `average` runs only on the rows that may have r < t. A subclass writes it, `weight` and
    `velocity`, which `Guided` already has.
    """

    def __call__(self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws) -> Problem:
        """See `Objective.__call__`."""
        return self.below_the_diagonal(u, *self.on_the_diagonal(u, x, condition, draws), draws)

    def on_the_diagonal(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws
    ) -> tuple[Problem, Velocity]:
        """The problem with v as the target of every row, and the `Velocity` itself."""
        z, v = self.path(data_of(x), draws.e, draws.t)
        velocity = self.velocity(u, z, v, condition, draws)
        condition = self.conditioned(u, condition, draws)
        problem = Problem(
            inputs=inputs_of(z, draws.r, draws.t, condition),
            target=velocity.v,
            weight=self.weight(draws),
            self_share=velocity.kappa,
        )
        return problem, velocity

    def below_the_diagonal(
        self, u: Callable, problem: Problem, velocity: Velocity, draws: Draws
    ) -> Problem:
        """The problem with the target of `average` on the rows with r < t."""
        rows = draws.rows or self.times.rows(ops.shape(problem.target)[0])
        if isinstance(rows.count, int) and rows.count == 0:
            none = (ops.zeros_like(draws.t), ops.zeros_like(draws.t))
            logged = set(self.logs) - LOGGED_OF_ALL
            return dataclasses.replace(problem, logs={name: none for name in sorted(logged)})
        target, logs = self.average(u, self.rows_below(rows, problem, velocity, draws))
        # Some rows that may have r < t have r = t: by a scheduled share, or by a tie of two draws.
        below = draws.r < draws.t
        counted, zeros = ops.cast(below, "float32"), ops.zeros_like(draws.t)
        replaced = rows.replace(problem.target, target)
        return dataclasses.replace(
            without_share(problem, below),
            target=ops.where(per_row(below, replaced), replaced, problem.target),
            logs={name: (rows.replace(zeros, value), counted) for name, value in logs.items()},
        )

    def rows_below(self, rows: Rows, problem: Problem, velocity: Velocity, draws: Draws) -> Below:
        """The rows that may have r < t, with their velocity and draws."""
        z, r, t, condition = arguments_of(problem.inputs)
        taken = rows.below((z, r, t, condition, velocity))
        return Below(*taken, draws=draws.below(rows))

    @abc.abstractmethod
    def velocity(self, u: Callable, z: Tensor, v: Tensor, condition: Any, draws: Draws) -> Velocity:
        """The `Velocity` that rows with r = t learn, given the path's v."""

    @abc.abstractmethod
    def average(self, u: Callable, below: Below) -> tuple[Tensor, dict[str, Tensor]]:
        """The targets of the rows `below`, and what to log about them: name -> (rows,)."""

    @abc.abstractmethod
    def weight(self, draws: Draws) -> Tensor | None:
        """(B,) weights of the rows' losses, or None."""


def without_share(problem: Problem, below: Tensor) -> Problem:
    """The problem without a share of the prediction in the targets of the rows `below` (B,)."""
    share = problem.self_share
    share = None if share is None else ops.where(below, 0.0, share)
    return dataclasses.replace(problem, self_share=share)


class Guided(AverageVelocity):
    """The velocity is the path's v, or what `guidance` makes of it."""

    def velocity(self, u: Callable, z: Tensor, v: Tensor, condition: Any, draws: Draws) -> Velocity:
        """See `AverageVelocity.velocity`."""
        if self.guidance is None:
            return Velocity(v)
        return Velocity(*self.guidance.velocity(u, z, v, condition, draws))
