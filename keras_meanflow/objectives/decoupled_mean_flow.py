"""Decoupled MeanFlow: flow matching and MeanFlow side by side, each on the whole batch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.guidance import Guidance
from keras_meanflow.objectives.learned_variance import Cauchy
from keras_meanflow.objectives.mean_flow import MeanFlow
from keras_meanflow.objectives.problem import Draws, Problem, joined
from keras_meanflow.parts.couplings import Independent
from keras_meanflow.parts.derivatives import Derivative, ForwardMode
from keras_meanflow.parts.part import fields_of, part
from keras_meanflow.parts.paths import Linear
from keras_meanflow.parts.time_laws import DiagonalLogitNormal, TwoLogitNormals
from keras_meanflow.parts.times import TimeSampler


class BranchDraws(NamedTuple):
    """The draws of each branch; `drop` is the same in both."""

    mean_flow: Draws
    flow: Draws


@part
class DecoupledMeanFlow(Objective):
    """`R(u(z_t, t, t) - v) + R(u(z'_t', r', t') - (v' - (t' - r') du/dt))`, halved, R robust.

    Both branches see every row of the batch, with the same labels dropped. Each draws its noise and
    times separately, because sharing them is reported to be unstable. With guidance, v is the
    guided velocity in both, and du/dt is taken along it.

    The paper's model guidance, `v + w (u(z, t, t | c) - u(z, t, t | null))`, is
    `Guidance(omega=1.0, kappa=w)`: its fixed point is ordinary guidance of scale 1 / (1 - w). A
    `DiT(split_depth=...)` can be initialised with a flow model (`decouple`).

    Forward passes a step, backward counted as 2: 8, and 11 with guidance.

    Args:
        times: the joint law of (r, t) of the MeanFlow branch.
        flow_times: the law of t of the flow-matching branch.
        loss: a `keras.losses.Loss`, R. `Cauchy` is the paper's, `ReleasedLogMSE` is
            what the authors' code computes, and `LogMSE` is its simple form.
        guidance: guidance that is baked into both targets, or None.
        label_dropout: share of rows that get the null condition and the unguided velocity.
        derivative: how du/dt is computed.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Example:
        >>> objective = DecoupledMeanFlow(guidance=Guidance(omega=1.0, kappa=0.6, end=0.7))
        >>> FlowMap(decouple(flow_model, split_depth=20), objective)

    References:
        Decoupled MeanFlow (arXiv 2510.24474), Eq. 6; kyungmnlee/dmf `DMFLoss`; the times are
        from its training scripts, not from its constructor.
    """

    times: TimeSampler = TwoLogitNormals()
    flow_times: TimeSampler = DiagonalLogitNormal()
    loss: keras.losses.Loss = Cauchy()
    guidance: Guidance | None = None
    label_dropout: float = 0.1
    derivative: Derivative = ForwardMode()
    path: Linear = Linear()
    coupling: Independent = Independent()

    logs = ("v_error", "u_error", "du_dt_norm")

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> BranchDraws:
        """See `Objective.draw`."""
        mean_flow = super().draw(keys, x, condition)
        flow = self.branch(self.flow_times).draw(keys.of_branch("flow"), x, condition)
        return BranchDraws(mean_flow, flow._replace(drop=mean_flow.drop))

    def __call__(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: BranchDraws
    ) -> Problem:
        """See `Objective.__call__`."""
        return joined(
            self.branch(self.flow_times)(u, x, condition, draws.flow),
            self.branch(self.times)(u, x, condition, draws.mean_flow),
        )

    def branch(self, times: TimeSampler) -> MeanFlow:
        """The `MeanFlow` of one branch; it is flow matching if the times have r = t."""
        fields = {**fields_of(self), "times": times}
        del fields["flow_times"]
        return MeanFlow(**fields)
