"""MeanFlow: the network learns the average velocity through the MeanFlow identity."""

import dataclasses

import keras
from keras import ops

from keras_meanflow.configurable import part
from keras_meanflow.couplings import Coupling, Independent
from keras_meanflow.derivatives import Derivative, ForwardMode
from keras_meanflow.guidance import Guidance, RandomGuidance
from keras_meanflow.objectives.base import Objective, Problem, data_of, inputs_of
from keras_meanflow.paths import Linear, Path, per_row
from keras_meanflow.rows import Rows
from keras_meanflow.schedules import bounds_of
from keras_meanflow.times import LogitNormal, TimeSampler
from keras_meanflow.weightings import AdaptiveLoss, ProgressiveGap, TimeWeight, squared_norm


@part
class MeanFlow(Objective):
    """Regress `u(z_t, r, t)` on `v - (t - r) du/dt`, `du/dt = v . grad_z u + d_t u`.

    Only the rows with r < t pay for the derivative. With guidance, v is the guided velocity; on
    rows with r = t its conditional part is the prediction itself (`Problem.self_share`), which
    saves its forward pass. Forward passes a step, backward counted as 2, with a share f of rows
    r < t: 3 + 2f, and 4 + 3f with guidance by omega and kappa; for f > 1/2 training takes 3 + f,
    and 4 + 2f with guidance.

    Args:
        times: the joint law of (r, t).
        loss: a `keras.losses.Loss`.
        alpha: weight of rows with r = t by their t, after the loss's normalisation, or None.
        beta: weight of rows with r < t by their gap, likewise.
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
    beta: ProgressiveGap | None = None
    guidance: Guidance | RandomGuidance | None = None
    label_dropout: float = 0.1
    derivative: Derivative = ForwardMode()
    path: Path = Linear()
    coupling: Coupling = Independent()

    logs = ("v_error", "u_error", "du_dt_norm")

    def __post_init__(self):
        if self.beta is not None:
            object.__setattr__(self, "_mean_gaps", self.times.mean_gaps())

    def __call__(self, u, x, condition, draws):
        """See `Objective.__call__`."""
        problem, v, kappa = self._velocity_problem(u, x, condition, draws)
        rows = ops.shape(v)[0]
        count = self.times.count_derived(rows)
        if isinstance(count, int) and count == 0:
            nothing = ops.zeros_like(draws.t)
            return dataclasses.replace(problem, logs={"du_dt_norm": (nothing, nothing)})
        rows = Rows(rows, count)
        inputs, v, kappa = rows.below((problem.inputs, v, kappa))
        target, du_dt = self._identity(u, inputs, v, kappa)
        below = ops.cast(ops.logical_and(rows.mask, draws.r < draws.t), "float32")
        norm = rows.replace(ops.zeros_like(draws.t), ops.sqrt(squared_norm(du_dt)))
        return dataclasses.replace(
            _without_share(problem, rows),
            target=rows.replace(problem.target, target),
            logs={"du_dt_norm": (norm, below)},
        )

    def training_problem(self, u, x, condition, draws):
        """The same regression for 3 + f forward passes where that is below `__call__`'s 3 + 2f.

        Above f = 1/2 the prediction on the rows with r < t and their du/dt come of one pass
        (`Problem.tangent`), with math attention in the gradient pass. A subclass keeps two.
        """
        below = 1.0 - bounds_of(self.times.fraction_r_equals_t)[0]
        if below <= 0.5 or self.derivative != ForwardMode() or type(self) is not MeanFlow:
            return self(u, x, condition, draws)
        problem, v, kappa = self._velocity_problem(u, x, condition, draws)
        rows = ops.shape(v)[0]
        rows = Rows(rows, self.times.count_derived(rows))
        inputs, v, kappa = rows.below((problem.inputs, v, kappa))
        v = self._mixed_velocity(u, inputs, v, kappa)
        return dataclasses.replace(
            _without_share(problem, rows), target=rows.replace(problem.target, v), tangent=v
        )

    def _velocity_problem(self, u, x, condition, draws):
        """The problem of learning v on every row, v but for its share kappa of u, and kappa."""
        z, v = self.path(data_of(x), draws.e, draws.t)
        v, kappa = self._velocity(u, z, v, condition, draws)
        inputs = inputs_of(z, draws.r, draws.t, self.conditioned(u, condition, draws.drop))
        problem = Problem(inputs=inputs, target=v, weight=self._weight(draws), self_share=kappa)
        return problem, v, kappa

    def _weight(self, draws):
        """alpha on rows with r = t, beta on rows with r < t, (B,); None if neither is used."""
        if self.alpha is None and self.beta is None:
            return None
        r, t, progress = draws.r, draws.t, draws.progress
        alpha = beta = ops.ones_like(t)
        if self.alpha is not None:
            alpha = self.alpha(t, progress)
        if self.beta is not None:
            mean_gap = self.times.look_up(self._mean_gaps, progress, draws.stage)
            beta = self.beta(t - r, mean_gap, progress)
        return ops.where(r < t, beta, alpha)

    def _velocity(self, u, z, v, condition, draws):
        """The guided velocity but for its share kappa of u(z, t, t | c), and kappa (or None)."""
        if self.guidance is None:
            return v, None
        if condition is None:
            raise ValueError("Guidance needs a condition: fit(x, y) with labels y. Received: None.")
        t = draws.t
        omega, kappa, null = self.guidance.weights(draws)
        v_guided = per_row(omega, v) * v
        if self.guidance.needs_null:
            v_null = u(z, t, t, u.drop(condition, ops.ones_like(draws.drop)))
            v_guided = v_guided + per_row(null, v) * v_null
        return v_guided, kappa if self.guidance.needs_own else None

    def _mixed_velocity(self, u, inputs, v, kappa):
        """The guided velocity on rows with r < t, its share kappa of u(z, t, t | c) included."""
        if kappa is None:
            return v
        t = inputs["t"]
        v_cond = u(inputs["z"], t, t, inputs.get("condition"))
        return v + per_row(kappa, v) * v_cond  # Eq. 21

    def _identity(self, u, inputs, v, kappa):
        """`v - (t - r) du/dt` (Eq. 10) and du/dt on rows with r < t."""
        z, r, t, condition = (inputs.get(name) for name in ("z", "r", "t", "condition"))
        v = self._mixed_velocity(u, inputs, v, kappa)
        tangents = (v, ops.zeros_like(r), ops.ones_like(t))
        du_dt = self.derivative(lambda z, r, t: u(z, r, t, condition), (z, r, t), tangents)
        return v - per_row(t - r, v) * du_dt, du_dt


def _without_share(problem, rows):
    """The problem whose rows with r < t have no share of the prediction in their target."""
    share = problem.self_share
    share = None if share is None else ops.where(rows.mask, 0.0, share)
    return dataclasses.replace(problem, self_share=share)
