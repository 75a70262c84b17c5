"""SplitMeanFlow: an interval's average velocity is that of its two parts; no derivative."""

import keras
from keras import ops

from keras_meanflow.objectives.average_velocity import Guided
from keras_meanflow.objectives.guidance import OwnGuidance, TeacherGuidance
from keras_meanflow.parts.couplings import Coupling, Independent
from keras_meanflow.parts.losses import SquaredError
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear, Path
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.time_laws import Uniform
from keras_meanflow.parts.times import TimeSampler


@part
class SplitMeanFlow(Guided):
    """Regress `u(z_t, r, t)` on `(1 - lambda) u(z_s, r, s) + lambda u(z_t, s, t)`.

    `s = (1 - lambda) t + lambda r` and `z_s = z_t - (t - s) u(z_t, s, t)`, all by the network as it
    is. The identity alone admits u = 0: the rows with r = t, which learn the velocity, are what
    ties it to the data, and half of the batch or more has to be such below. The velocity is that
    of the data, of the paper's guided teacher (`TeacherGuidance`, from whose weights the student
    starts, with label_dropout=0.0), or guided by the network itself.

    As lambda tends to 0 the error over lambda tends to that of `BoundaryMeanFlow` with u(z, t, t)
    for v; lambda = 1/2 splits like Shortcut models. Forward passes a step, backward counted as 2,
    with a share f of rows r < t: 3 + 2f.

    Args:
        times: the joint law of (r, t).
        splits: lambda is uniform between these two; (0.5, 0.5) halves each interval.
        loss: a `keras.losses.Loss`; the squared error summed over the sample.
        guidance: what takes the place of `e - x`, or None.
        label_dropout: share of rows that get the null condition.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Raises:
        ValueError: for splits outside [0, 1] or out of order.

    Example:
        >>> FlowMap(DiT.from_size("B/2", image_size=32, channels=4), SplitMeanFlow())

    References:
        SplitMeanFlow: Interval Splitting Consistency in Few-Step Generative Modeling (arXiv
        2507.16884), Alg. 1; clcarwin/SplitMeanFlow_MNIST, which starts with 10,000 steps of v as
        the target of all rows, here `times=Uniform(fraction_r_equals_t=Steps(...))`.
    """

    times: TimeSampler = Uniform(fraction_r_equals_t=0.5)
    splits: tuple = (0.0, 1.0)
    loss: keras.losses.Loss = SquaredError()
    guidance: OwnGuidance | TeacherGuidance | None = None
    label_dropout: float = 0.1
    path: Path = Linear()
    coupling: Coupling = Independent()

    logs = ("v_error", "u_error")

    def __post_init__(self):
        low, high = self.splits
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"splits are rising numbers in [0, 1]. Received: {self.splits}.")

    def draw(self, keys, x, condition=None):
        """See `Objective.draw`."""
        draws = super().draw(keys, x, condition)
        low, high = self.splits
        uniform = keys.uniform("split", (ops.shape(draws.t)[0], 1))[:, 0]
        return draws._replace(extra=low + (high - low) * uniform)

    def average(self, u, below):
        """The average over both parts (Alg. 1); nothing is logged."""
        z, r, t, condition = below.z, below.r, below.t, below.condition
        split = below.draws.extra  # lambda
        s = (1.0 - split) * t + split * r
        u2 = u(z, s, t, condition)
        z_s = z - per_row(t - s, z) * u2
        u1 = u(z_s, r, s, condition)
        return per_row(1.0 - split, z) * u1 + per_row(split, z) * u2, {}

    def weight(self, draws):
        """None: the mean squared error."""
        del draws
