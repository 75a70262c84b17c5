"""MeanFlow: the network learns the average velocity through the MeanFlow identity."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.objectives.average_velocity import (
    Below,
    Guided,
    mean_flow_identity,
    without_share,
)
from keras_meanflow.objectives.guidance import OwnGuidance, TeacherGuidance
from keras_meanflow.objectives.problem import Draws, Problem
from keras_meanflow.parts.couplings import Coupling, Independent
from keras_meanflow.parts.derivatives import Derivative, ForwardMode
from keras_meanflow.parts.losses import AdaptiveLoss, squared_norm
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear, Path
from keras_meanflow.parts.schedules import Schedule, bounds_of, value_at
from keras_meanflow.parts.time_laws import LogitNormal
from keras_meanflow.parts.times import TimeSampler
from keras_meanflow.parts.weightings import GapWeight, TimeWeight


@part
class MeanFlow(Guided):
    """Regress `u(z_t, r, t)` on `v - (t - r) du/dt`, `du/dt = v . grad_z u + d_t u`.

    The derivative is computed only on rows with r < t. With guidance, v is the guided velocity. On
    rows with r = t its conditional part is the prediction itself (`Problem.self_share`), which
    saves a forward pass. Forward passes a step, backward counted as 2, with a share f of rows
    r < t: 3 + 2f, and 4 + 3f with guidance by omega and kappa. For f > 1/2 training takes 3 + f,
    and 4 + 2f with guidance.

    Args:
        times: the joint law of (r, t).
        loss: a `keras.losses.Loss`.
        alpha: weight of rows with r = t by their t, after the loss's normalisation, or None.
        beta: weight of rows with r < t by their gap, after the loss's normalisation, or None.
        v_share: share of the weight on rows with r = t, a number or a schedule. alpha and beta are
            then divided by their means over the law of times, and the mean weight is 1. None
            leaves it to alpha, beta and the share of rows. The logs show the shares of each step,
            `v_weight` and `u_weight`.
        guidance: guidance that is baked into the target, or None.
        label_dropout: share of rows that get the null condition and the unguided velocity. Drawn
            over all rows; the official code drops rows with r = t only.
        derivative: how du/dt is computed.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Example:
        >>> FlowMap(DiT.from_size("B/4", image_size=32, channels=4, num_classes=1000), MeanFlow())

    References:
        Mean Flows for One-step Generative Modeling (arXiv 2505.13447), Alg. 1, Eq. 19 and 21;
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), Eq. 8
        and 9, for alpha and beta.
    """

    times: TimeSampler = LogitNormal()
    loss: keras.losses.Loss = AdaptiveLoss()
    alpha: TimeWeight | None = None
    beta: GapWeight | None = None
    v_share: float | Schedule | None = None
    guidance: OwnGuidance | TeacherGuidance | None = None
    label_dropout: float = 0.1
    derivative: Derivative = ForwardMode()
    path: Path = Linear()
    coupling: Coupling = Independent()

    logs = ("v_error", "u_error", "du_dt_norm", "v_weight", "u_weight")

    def __post_init__(self):
        super().__post_init__()
        if not all(0.0 <= share <= 1.0 for share in bounds_of(self.v_share or 0.0)):
            raise ValueError(f"v_share is a share in [0, 1]. Received: {self.v_share}.")
        object.__setattr__(self, "_means", self._tabulated())

    def _tabulated(self):
        """The mean shapes of alpha and beta over the law of times, by name."""
        tables, (alpha, beta) = {}, (self.alpha, self.beta)
        if alpha is not None:
            tables["alpha"] = self.times.tabulate(lambda r, t: alpha.shape(t), below=False)
        if beta is not None:
            tables["beta"] = self.times.tabulate(lambda r, t: beta.shape(t - r))
        return tables

    def training_problem(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws
    ) -> Problem:
        """The same regression in 3 + f forward passes where this costs less than 3 + 2f.

        Above f = 1/2 one pass gives both the prediction and du/dt on the rows with r < t
        (`Problem.tangent`). Its gradient pass uses math attention. A subclass keeps two passes.
        """
        below = 1.0 - bounds_of(self.times.fraction_r_equals_t)[0]
        if below <= 0.5 or self.derivative != ForwardMode() or type(self) is not MeanFlow:
            return self(u, x, condition, draws)
        problem, velocity = self.on_the_diagonal(u, x, condition, draws)
        rows = draws.rows or self.times.rows(ops.shape(problem.target)[0])
        v = self.rows_below(rows, problem, velocity, draws).v(u)
        return dataclasses.replace(
            without_share(problem, rows.mask), target=rows.replace(problem.target, v), tangent=v
        )

    def average(self, u: Callable, below: Below) -> tuple[Tensor, dict[str, Tensor]]:
        """The right-hand side of the MeanFlow identity, and the norm of du/dt."""
        v = below.v(u)
        target, du_dt = mean_flow_identity(self.derivative, u, below, v, v)
        return target, {"du_dt_norm": ops.sqrt(squared_norm(du_dt))}

    def weight(self, draws: Draws) -> Tensor | None:
        """(B,) alpha on rows with r = t, beta on rows with r < t; None if nothing is weighted."""
        if self.alpha is self.beta is self.v_share is None:
            return None
        below = draws.r < draws.t
        v, mean_v = self._weighed("alpha", draws.t, draws)
        u, mean_u = self._weighed("beta", draws.t - draws.r, draws)
        if self.v_share is not None:
            share = value_at(self.v_share, draws.progress)
            rows_u = ops.mean(ops.cast(below, "float32"))
            # A batch with only one kind of row must not divide by zero.
            v = v * share / (mean_v * ops.maximum(1.0 - rows_u, 1e-6))
            u = u * (1.0 - share) / (mean_u * ops.maximum(rows_u, 1e-6))
        return ops.where(below, u, v)

    def _weighed(self, name, x, draws):
        """The weights by alpha or beta, (B,), and their mean over its rows."""
        weighting = getattr(self, name)
        if weighting is None:
            return ops.ones_like(x), 1.0
        mean_shape = self.times.look_up(self._means[name], draws.progress, draws.state)
        progress = draws.progress
        return weighting(x, mean_shape, progress), weighting.mean(mean_shape, progress)
