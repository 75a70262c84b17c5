"""AlphaFlow: from trajectory flow matching to MeanFlow while a schedule lowers alpha to 0."""

from collections.abc import Callable

import keras
from keras import ops

from keras_meanflow.backend import Tensor, cond
from keras_meanflow.objectives.average_velocity import Below, Guided, mean_flow_identity
from keras_meanflow.objectives.guidance import OwnGuidance, TeacherGuidance
from keras_meanflow.objectives.problem import Draws
from keras_meanflow.parts.couplings import Coupling, Independent
from keras_meanflow.parts.derivatives import Derivative, ForwardMode
from keras_meanflow.parts.losses import AdaptiveLoss
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear, Path
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.schedules import Schedule, Sigmoid, value_at
from keras_meanflow.parts.time_laws import LogitNormal
from keras_meanflow.parts.times import TimeSampler


@part
class AlphaFlow(Guided):
    """Regress `u(z_t, r, t)` on `alpha v + (1 - alpha) u(z_s, r, s)`, weighted by alpha.

    `s = alpha r + (1 - alpha) t` and `z_s = z_t - (t - s) v`. At alpha = 1 this is trajectory flow
    matching: the target is v on every interval. As alpha tends to 0, the gradient tends to
    MeanFlow's. Below `eta` alpha counts as 0 and the target is MeanFlow's, with du/dt. A step
    computes only the branch in use, inside one compiled step. The normalised error times alpha
    gives the paper's weight `alpha / (||d||^2 + c)`. Where alpha = 0, and on rows with r = t, the
    weight is 1.

    Forward passes a step, backward counted as 2, with a share f of rows r < t: 3 at alpha = 1,
    3 + f, and 3 + 2f at alpha = 0.

    Args:
        times: the joint law of (r, t); 75 % of rows r < t without guidance, 50 % for XL/2.
        alpha: a number or a schedule; over the whole run, or between the paper's k_s and k_e:
            `Sigmoid(start=1.0, end=0.0, steepness=25.0, begin=0.5, until=0.83)`.
        eta: alpha below eta counts as 0, above 1 - eta as 1.
        clip: largest absolute value of a target with 0 < alpha < 1, or None. The released
            configurations with guidance use 4.
        loss: a `keras.losses.Loss`. The released code takes the mean over the sample, not the sum;
            so for data of D numbers its c corresponds to D times 1e-3.
        guidance: what replaces `e - x`, or None. On rows whose label is dropped, the released code
            guides towards the null label.
        label_dropout: share of rows that get the null condition and the unguided velocity.
        derivative: how du/dt is computed at alpha = 0.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Example:
        >>> FlowMap(DiT.from_size("B/2", image_size=32, channels=4), AlphaFlow())

    References:
        AlphaFlow: Understanding and Improving MeanFlow Models (arXiv 2510.20771), Def. 1 (its
        z_s has another sign than Alg. 1 and the code) and section 4; snap-research/alphaflow
        `AlphaFlowLoss`.
    """

    times: TimeSampler = LogitNormal(fraction_r_equals_t=0.25)
    alpha: float | Schedule = Sigmoid(start=1.0, end=0.0, steepness=25.0)
    eta: float = 5e-3
    clip: float | None = None
    loss: keras.losses.Loss = AdaptiveLoss(p=1.0, c=1e-3)
    guidance: OwnGuidance | TeacherGuidance | None = None
    label_dropout: float = 0.1
    derivative: Derivative = ForwardMode()
    path: Path = Linear()
    coupling: Coupling = Independent()

    logs = ("v_error", "u_error")

    def clamped(self, progress: Tensor | float) -> Tensor:
        """alpha at `progress`: 0 below eta, 1 above 1 - eta."""
        alpha = ops.cast(value_at(self.alpha, progress), "float32")
        alpha = ops.where(alpha < self.eta, 0.0, alpha)
        return ops.where(alpha > 1.0 - self.eta, 1.0, alpha)

    def average(self, u: Callable, below: Below) -> tuple[Tensor, dict[str, Tensor]]:
        """The target of the branch in use; nothing is logged."""
        alpha, v = self.clamped(below.draws.progress), below.v(u)

        def above_0():
            return cond(alpha < 1.0, lambda: self._between(u, below, v, alpha), lambda: v)

        def at_0():
            return mean_flow_identity(self.derivative, u, below, v, v)[0]

        return cond(alpha > 0.0, above_0, at_0), {}

    def _between(self, u, below, v, alpha):
        z, r, t = below.z, below.r, below.t
        s = alpha * r + (1.0 - alpha) * t
        z_s = z - per_row(t - s, z) * v
        target = alpha * v + (1.0 - alpha) * u(z_s, r, s, below.condition)
        return target if self.clip is None else ops.clip(target, -self.clip, self.clip)

    def weight(self, draws: Draws) -> Tensor | None:
        """alpha on rows with r < t if it exceeds 0, else 1."""
        alpha = self.clamped(draws.progress)
        return ops.where(draws.r < draws.t, ops.where(alpha > 0.0, alpha, 1.0), 1.0)
