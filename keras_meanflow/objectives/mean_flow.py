"""MeanFlow: the network learns the average velocity through the MeanFlow identity."""

import keras
from keras import ops

from keras_meanflow.configurable import part
from keras_meanflow.couplings import Independent
from keras_meanflow.derivatives import Derivative, ForwardMode
from keras_meanflow.guidance import Guidance
from keras_meanflow.objectives.base import Objective, Problem, data_of, inputs_of, take_rows
from keras_meanflow.paths import Linear, per_row
from keras_meanflow.times import (
    LogitNormal,
    TimeSampler,
    indices_r_below_t,
    mask_r_below_t,
)
from keras_meanflow.weightings import AdaptiveLoss, ProgressiveGap, TimeWeight, squared_norm


@part
class MeanFlow(Objective):
    """Regress `u(z_t, r, t)` on `v - (t - r) du/dt`, `du/dt = v . grad_z u + d_t u`.

    Only the rows with r < t pay for the derivative. With guidance, v is the guided velocity; on
    rows with r = t its conditional part is the prediction itself (`Problem.self_share`), which
    saves its forward pass. Forward passes a step, backward counted as 2, with a share f of rows
    r < t: 3 + 2f, and 4 + 3f with guidance by omega and kappa.

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
    guidance: Guidance | None = None
    label_dropout: float = 0.1
    derivative: Derivative = ForwardMode()
    path: Linear = Linear()
    coupling: Independent = Independent()

    logs = ("v_error", "u_error", "du_dt_norm")

    def __post_init__(self):
        if self.beta is not None:
            object.__setattr__(self, "_mean_gaps", self.times.mean_gaps())

    def __call__(self, u, x, condition, draws):
        """See `Objective.__call__`."""
        r, t = draws.r, draws.t
        z, v = self.path(data_of(x), draws.e, t)
        condition_dropped = self.conditioned(u, condition, draws.drop)
        target, kappa = self._velocity(u, z, v, condition, draws)
        inputs = inputs_of(z, r, t, condition_dropped)
        rows = ops.shape(z)[0]
        count = self.times.count_derived(rows)
        weight = self._weight(draws)
        if isinstance(count, int) and count == 0:
            logs = {"du_dt_norm": (ops.zeros_like(t), ops.zeros_like(t))}
            return Problem(inputs=inputs, target=target, weight=weight, self_share=kappa, logs=logs)
        derived = mask_r_below_t(rows, count)
        # A partial batch of unknown size may have no such row: one is computed and not used.
        count = count if isinstance(count, int) else ops.maximum(count, 1)
        indices = indices_r_below_t(rows, count)
        derived_rows = take_rows((z, r, t, condition_dropped, target, kappa), indices)
        target_derived, du_dt = self._identity(u, *derived_rows)
        position = ops.minimum(ops.arange(rows, dtype="int32") * count // rows, count - 1)
        target = ops.where(per_row(derived, z), ops.take(target_derived, position, axis=0), target)
        norm = ops.take(ops.sqrt(squared_norm(du_dt)), position)
        return Problem(
            inputs=inputs,
            target=target,
            weight=weight,
            self_share=None if kappa is None else ops.where(derived, 0.0, kappa),
            logs={"du_dt_norm": (norm, ops.cast(ops.logical_and(derived, r < t), "float32"))},
        )

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
        omega, kappa, null = self.guidance.weights(t, draws.drop)
        v_guided = per_row(omega, v) * v
        if self.guidance.needs_null:
            v_null = u(z, t, t, u.drop(condition, ops.ones_like(draws.drop)))
            v_guided = v_guided + per_row(null, v) * v_null
        return v_guided, kappa if self.guidance.kappa > 0.0 else None

    def _identity(self, u, z, r, t, condition, v, kappa):
        """`v - (t - r) du/dt` (Eq. 10) and du/dt on rows with r < t."""
        if kappa is not None:
            v = v + per_row(kappa, v) * u(z, t, t, condition)  # Eq. 21
        tangents = (v, ops.zeros_like(r), ops.ones_like(t))
        du_dt = self.derivative(lambda z, r, t: u(z, r, t, condition), (z, r, t), tangents)
        return v - per_row(t - r, v) * du_dt, du_dt
