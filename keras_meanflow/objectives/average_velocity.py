"""What objectives of average velocities share: v where r = t, a subclass's target where r < t."""

import abc
import dataclasses
from typing import Any, NamedTuple

from keras import ops

from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.problem import Problem, arguments_of, data_of, inputs_of
from keras_meanflow.parts.rows import per_row


class Velocity(NamedTuple):
    """The velocity of some rows, and what was computed for it.

    `v`: the velocity but for its share `kappa` (rows,) of the network's own velocity, which is
    None where it has none; `own`: that own velocity where it has been computed, or None.
    """

    v: Any
    kappa: Any = None
    own: Any = None


class Below(NamedTuple):
    """The rows of a batch that may have r < t: what `AverageVelocity.average` has to go by."""

    z: Any
    r: Any
    t: Any
    condition: Any
    velocity: Velocity
    draws: Any

    def v(self, u):
        """The velocity with the network's own share in it."""
        if self.velocity.kappa is None:
            return self.velocity.v
        return self.v_with(u(self.z, self.t, self.t, self.condition))

    def v_with(self, own):
        """The same where the network's own velocity is known."""
        v, kappa, _ = self.velocity
        return v if kappa is None else v + per_row(kappa, v) * own  # MeanFlow, Eq. 21


def mean_flow_identity(derivative, u, below, v, tangent):
    """`v - (t - r) du/dt` (MeanFlow, Eq. 10) and du/dt along `tangent`, a velocity."""
    r, t = below.r, below.t
    tangents = (tangent, ops.zeros_like(r), ops.ones_like(t))
    du_dt = derivative(lambda z, r, t: u(z, r, t, below.condition), (below.z, r, t), tangents)
    return v - per_row(t - r, v) * du_dt, du_dt


class AverageVelocity(Objective):
    """Rows with r = t learn the velocity v; rows with r < t what a subclass writes in `average`.

    Only the rows that may have r < t pay for it. A subclass also writes `velocity` (`Guided` has
    that of most) and `weight`.
    """

    def __call__(self, u, x, condition, draws):
        """See `Objective.__call__`."""
        return self.below_the_diagonal(u, *self.on_the_diagonal(u, x, condition, draws), draws)

    def on_the_diagonal(self, u, x, condition, draws):
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

    def below_the_diagonal(self, u, problem, velocity, draws):
        """The problem with the target of `average` on the rows with r < t."""
        rows = draws.rows or self.times.rows(ops.shape(problem.target)[0])
        if isinstance(rows.count, int) and rows.count == 0:
            none = (ops.zeros_like(draws.t), ops.zeros_like(draws.t))
            logged = set(self.logs) - {"v_error", "u_error", "second_error"}
            return dataclasses.replace(problem, logs={name: none for name in sorted(logged)})
        target, logs = self.average(u, self.rows_below(rows, problem, velocity, draws))
        counted = ops.cast(ops.logical_and(rows.mask, draws.r < draws.t), "float32")
        zeros = ops.zeros_like(draws.t)
        return dataclasses.replace(
            without_share(problem, rows),
            target=rows.replace(problem.target, target),
            logs={name: (rows.replace(zeros, value), counted) for name, value in logs.items()},
        )

    def rows_below(self, rows, problem, velocity, draws):
        """The rows that may have r < t, with their velocity and draws."""
        z, r, t, condition = arguments_of(problem.inputs)
        taken = rows.below((z, r, t, condition, velocity))
        return Below(*taken, draws=draws.below(rows))

    @abc.abstractmethod
    def velocity(self, u, z, v, condition, draws):
        """The `Velocity` that rows with r = t learn, from the path's v."""

    @abc.abstractmethod
    def average(self, u, below):
        """The targets of the rows `below`, and name -> (rows,) of what is logged of them."""

    @abc.abstractmethod
    def weight(self, draws):
        """(B,) weights of the rows' losses, or None."""


def without_share(problem, rows):
    """The problem whose rows with r < t have no share of the prediction in their target."""
    share = problem.self_share
    share = None if share is None else ops.where(rows.mask, 0.0, share)
    return dataclasses.replace(problem, self_share=share)


class Guided(AverageVelocity):
    """v is the path's, or what `guidance` makes of it."""

    def velocity(self, u, z, v, condition, draws):
        """See `AverageVelocity.velocity`."""
        if self.guidance is None:
            return Velocity(v)
        return Velocity(*self.guidance.velocity(u, z, v, condition, draws))
