"""Improved MeanFlow: du/dt along the network's own velocity; guidance as the network's input."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.average_velocity import (
    AverageVelocity,
    Below,
    Velocity,
    mean_flow_identity,
)
from keras_meanflow.objectives.guidance import GuidanceInput
from keras_meanflow.objectives.problem import Draws, Problem, arguments_of
from keras_meanflow.parts.couplings import Coupling, Independent
from keras_meanflow.parts.derivatives import Derivative, ForwardMode
from keras_meanflow.parts.losses import AdaptiveLoss, squared_norm
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear, Path
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.time_laws import LogitNormal
from keras_meanflow.parts.times import TimeSampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTangent(AverageVelocity):
    """du/dt along the network's own velocity v_c; a subclass writes `own`, the output it is from.

    The paper fits `V = u + (t - r) sg(du/dt)` to `v_g`. Here u is regressed on
    `v_g - (t - r) du/dt`, which has the gradient of `||V - v_g||^2`.
    """

    times: TimeSampler = LogitNormal(fraction_r_equals_t=0.5)
    loss: keras.losses.Loss = AdaptiveLoss()
    guidance: GuidanceInput | None = None
    label_dropout: float = 0.1
    derivative: Derivative = ForwardMode()
    path: Path = Linear()
    coupling: Coupling = Independent()

    logs = ("v_error", "u_error", "du_dt_norm")

    def check_network(self, network: Network) -> None:
        """See `Objective.check_network`."""
        if self.guidance is not None and "omega" not in getattr(network, "guidance", {}):
            raise ValueError(
                "GuidanceInput needs a network that takes the scale and its interval, such as "
                f"InContextDiT. Received: {type(network).__name__}."
            )

    def conditioned(self, u: Callable, condition: Any, draws: Draws) -> Any:
        """The condition that the network sees: the labels, and the guidance scale and interval."""
        condition = super().conditioned(u, condition, draws)
        return (
            condition if self.guidance is None else self.guidance.add_to(condition, **draws.scale)
        )

    @abc.abstractmethod
    def own(self, u: Callable, z: Tensor, t: Tensor, condition: Any) -> Tensor:
        """The network's own velocity at (z, t)."""

    def own_velocity(self, u: Callable, z: Tensor, condition: Any, draws: Draws) -> Tensor:
        """v_c for a condition that the network sees, with the scale that applies at t."""
        if self.guidance is not None:
            omega = self.guidance.scale_at(draws.t, **draws.scale)
            condition = self.guidance.add_to(condition, omega)
        return self.own(u, z, draws.t, condition)

    def null_velocity(self, u: Callable, z: Tensor, condition: Any, draws: Draws) -> Tensor:
        """v_u: the network's own velocity without label and guidance."""
        null = u.drop(condition, ops.ones_like(draws.drop))
        return self.own(u, z, draws.t, self.guidance.add_to(null, ops.ones_like(draws.t)))

    def kappa(self, draws: Draws) -> Tensor:
        """`1 - 1 / omega`, (B,), with the scale that applies; 0 where the label is dropped."""
        omega = self.guidance.scale_at(draws.t, **draws.scale)
        return ops.where(draws.drop, 0.0, 1.0 - 1.0 / omega)

    def average(self, u: Callable, below: Below) -> tuple[Tensor, dict[str, Tensor]]:
        """`v_g - (t - r) du/dt` with du/dt along v_c, and the norm of du/dt."""
        own = below.velocity.own
        if own is None:
            own = self.own_velocity(u, below.z, below.condition, below.draws)
        target, du_dt = mean_flow_identity(self.derivative, u, below, below.v_with(own), own)
        return target, {"du_dt_norm": ops.sqrt(squared_norm(du_dt))}

    def weight(self, draws: Draws) -> Tensor | None:
        """None: only the loss weighs rows."""
        del draws
        return None


@part
class BoundaryMeanFlow(OwnTangent):
    """MeanFlow along the boundary velocity: `u` on `v_g - (t - r) du/dt`, du/dt along u(z, t, t).

    With `GuidanceInput`, `v_g = e - x + (1 - 1/omega) (v_c - v_u)`, v_c = u(z, t, t | c, omega) and
    v_u = u(z, t, t | null, 1): its fixed point is ordinary guidance of scale omega. On rows with
    r = t, v_c is the prediction itself (`Problem.self_share`). Forward passes a step, backward
    counted as 2, with a share f of rows r < t: 3 + 3f, and 4 + 3f with guidance.

    Args:
        times: the joint law of (r, t).
        loss: a `keras.losses.Loss`.
        guidance: the laws of the guidance scale and interval that the network takes, or None.
        label_dropout: share of rows that get the null condition and the unguided velocity. Drawn
            over all rows; the released code drops rows with r = t only.
        derivative: how du/dt is computed.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Example:
        >>> FlowMap(DiT.from_size("B/2", image_size=32, channels=4), BoundaryMeanFlow())

    References:
        Improved Mean Flows (arXiv 2512.02012), Eq. 12, variant (a), and section 4; the authors'
        code has only variant (b), `ImprovedMeanFlow`.
    """

    def own(self, u: Callable, z: Tensor, t: Tensor, condition: Any) -> Tensor:
        """u(z, t, t)."""
        return u(z, t, t, condition)

    def velocity(self, u: Callable, z: Tensor, v: Tensor, condition: Any, draws: Draws) -> Velocity:
        """See `AverageVelocity.velocity`."""
        if self.guidance is None:
            return Velocity(v)
        kappa = self.kappa(draws)
        v_u = self.null_velocity(u, z, condition, draws)
        return Velocity(v - per_row(kappa, v) * v_u, kappa)


@part
class ImprovedMeanFlow(OwnTangent):
    """MeanFlow along the velocity of a second head v, which learns v_g together with u.

    The targets are the same as for `BoundaryMeanFlow`, but v_c and v_u are the head's outputs at
    r = t. The head's regression, on v_g at the sampled (z, r, t), is the problem's second output;
    its mean squared error is logged as `second_error`. Sampling does not use the head. Forward
    passes a step, backward counted as 2, with a share f of rows r < t: 3 + 3f, and 5 + 2f with
    guidance. The gradient pass also contains the head's blocks.

    Args:
        times, loss, guidance, label_dropout, derivative, path, coupling: see `BoundaryMeanFlow`.

    Example:
        >>> network = InContextDiT.from_size("B/2", image_size=32, channels=4, num_classes=1000)
        >>> FlowMap(network, ImprovedMeanFlow(guidance=GuidanceInput()))

    References:
        Improved Mean Flows (arXiv 2512.02012), Eq. 12, variant (b); Lyy-iiis/imeanflow `imf.py`.
    """

    logs = (*OwnTangent.logs, "second_error")

    def check_network(self, network: Network) -> None:
        """See `Objective.check_network`."""
        super().check_network(network)
        if not hasattr(network, "u_and_v"):
            raise ValueError(
                "ImprovedMeanFlow needs a network with a second head, such as InContextDiT; "
                f"BoundaryMeanFlow needs none. Received: {type(network).__name__}."
            )

    def __call__(self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws) -> Problem:
        """See `Objective.__call__`."""
        problem, velocity = self.on_the_diagonal(u, x, condition, draws)
        second = Problem(inputs=problem.inputs, target=problem.target)
        problem = self.below_the_diagonal(u, problem, velocity, draws)
        return dataclasses.replace(problem, second=second)

    def predict_both(self, u: Callable, inputs: dict, second: dict) -> Tensor:
        """See `Objective.predict_both`: both heads in one pass of the trunk."""
        del second
        return ops.concatenate(u.u_and_v(*arguments_of(inputs)))

    def own(self, u: Callable, z: Tensor, t: Tensor, condition: Any) -> Tensor:
        """The head's v(z, t, t)."""
        return u.velocity(z, t, t, condition)

    def velocity(self, u: Callable, z: Tensor, v: Tensor, condition: Any, draws: Draws) -> Velocity:
        """See `AverageVelocity.velocity`."""
        if self.guidance is None:
            return Velocity(v)
        v_c = self.own_velocity(u, z, self.conditioned(u, condition, draws), draws)
        v_u = self.null_velocity(u, z, condition, draws)
        v_g = v + per_row(self.kappa(draws), v) * (v_c - v_u)
        return Velocity(v_g, own=v_c)
