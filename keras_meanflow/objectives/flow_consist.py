"""FlowConsist: the derivative along the predicted velocity, and samples pushed onto the data."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Self

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.average_velocity import Below, mean_flow_identity
from keras_meanflow.objectives.mean_flow import MeanFlow
from keras_meanflow.objectives.problem import Draws, Problem, inputs_of, joined
from keras_meanflow.parts.losses import squared_norm
from keras_meanflow.parts.part import fields_of, part
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.schedules import Schedule, value_at
from keras_meanflow.parts.time_laws import DiagonalLogitNormal
from keras_meanflow.parts.times import TimeSampler

_LEAST_TIME = 1e-4  # the push is divided by t, at least by this


class ConsistDraws(NamedTuple):
    """The draws of the MeanFlow branch, and the draws that make samples noisy again."""

    mean_flow: Draws
    fake: Draws


@part
class FlowConsist(MeanFlow):
    """MeanFlow whose du/dt is taken along the network's own velocity, and a rectification.

    The target is `v - (t - r) du/dt`, `du/dt = u(z, t, t) . grad_z u + d_t u`. MeanFlow has v in
    both places. In the first, v is right on average; in the derivative it only adds variance.

    The rectification compares samples with data, as distribution matching does, but without a
    teacher. With the sample `x^ = z - t u(z, 0, t)` of each row and its noisy version `x^_s`,

        D = u(x^_s, s, s) - f(x^_s, s),      u(z, 0, t) regressed on sg(u(z, 0, t) + w D / t),

    weighted by `lambda t^2`. In the space of x^ this is a step of w D against the gradient of the
    KL divergence of samples from data. f, the `companion`, learns the velocity of the samples. With
    the squared error the push is the gradient itself; an adaptive loss normalises it row by row.
    Forward passes a step, backward counted as 2, a share f of rows r < t: 12 + 3f.

    This is a reconstruction: only the paper's abstract and reviews were available. They give the
    tangent (Eq. 7), and the comparison of two velocities at one noisy state, at every time and
    without a teacher (Eq. 8 to 11). Our choices are `w = s`, the law of s, lambda and its schedule,
    x^ from the rows of the batch, and one update of f a step.

    Args:
        companion: f, a network like the one that is trained; it is called with r = t = s.
        rectification: lambda, a number, or a schedule that may keep it at 0 until the velocity is
            learned.
        fake_times: the law of s.
        times, loss, guidance, ...: as in `MeanFlow`. The reviews report a smaller guidance scale
            than there.

    Example:
        >>> objective = FlowConsist(companion=type(network).from_config(network.get_config()))
        >>> FlowMap(network, objective)

    References:
        FlowConsist (arXiv 2602.06346); Yin et al., One-step Diffusion with Distribution Matching
        Distillation (arXiv 2311.18828).
    """

    companion: Network
    rectification: float | Schedule = 0.5
    fake_times: TimeSampler = DiagonalLogitNormal()

    logs = (*MeanFlow.logs, "second_error", "rectification_norm")

    @classmethod
    def of(cls, objective: MeanFlow, companion: Network, **settings: Any) -> Self:
        """A FlowConsist with the fields of a `MeanFlow`, a companion, and other settings.

        Example:
            >>> FlowConsist.of(flow_map.objective, flow_map.copied_network(None))
        """
        return cls(**{**fields_of(objective), "companion": companion, **settings})

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> ConsistDraws:
        """See `Objective.draw`."""
        draws, again = super().draw(keys, x, condition), keys.of_branch("fake")
        s, _ = self.fake_times.draw(again, ops.shape(draws.e)[0])
        e = again.normal("e", ops.shape(draws.e))
        return ConsistDraws(draws, draws._replace(r=s, t=s, e=e, rows=None))

    def __call__(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: ConsistDraws
    ) -> Problem:
        """See `Objective.__call__`."""
        problem = super().__call__(u, x, condition, draws.mean_flow)
        z, t, condition = (problem.inputs.get(name) for name in ("z", "t", "condition"))
        x_hat = z - per_row(t, z) * u(z, 0.0 * t, t, condition)
        s = draws.fake.t
        x_s, v_s = self.path(x_hat, draws.fake.e, s)
        d = u(x_s, s, s, condition) - self.companion(x_s, s, s, condition)
        push = per_row(s / ops.maximum(t, _LEAST_TIME), z) * d
        rectification = Problem(
            inputs=inputs_of(z, 0.0 * t, t, condition),
            target=push,
            weight=value_at(self.rectification, draws.mean_flow.progress) * t**2,
            self_share=ops.ones_like(t),
            logs={"rectification_norm": (ops.sqrt(squared_norm(d)), ops.ones_like(t))},
        )
        fake = Problem(inputs=inputs_of(x_s, s, s, condition), target=v_s)
        return dataclasses.replace(joined(problem, rectification), second=fake)

    def average(self, u: Callable, below: Below) -> tuple[Tensor, dict[str, Tensor]]:
        """As `MeanFlow.average`, but with the derivative along u(z, t, t) (Eq. 7)."""
        own = u(below.z, below.t, below.t, below.condition)
        target, du_dt = mean_flow_identity(self.derivative, u, below, below.v_with(own), own)
        return target, {"du_dt_norm": ops.sqrt(squared_norm(du_dt))}
