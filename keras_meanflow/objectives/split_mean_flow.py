"""SplitMeanFlow: the average over an interval from the averages over two parts of it."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives.average_velocity import Below, Guided
from keras_meanflow.objectives.guidance import OwnGuidance, TeacherGuidance
from keras_meanflow.objectives.problem import Draws
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

    `s = (1 - lambda) t + lambda r` and `z_s = z_t - (t - s) u(z_t, s, t)`, all with the present
    network and without a derivative. u = 0 also satisfies the identity: only the rows with r = t,
    which learn the velocity, connect u to the data. So at least half of the batch should have
    r = t. The velocity is `e - x`, that of the paper's guided teacher, or guided by the network
    itself. For the teacher use `TeacherGuidance` and label_dropout=0.0, with the student
    initialised with the teacher's weights.

    As lambda tends to 0, the error divided by lambda tends to that of `BoundaryMeanFlow` with
    u(z, t, t) for v. lambda = 1/2 splits as Shortcut models do. Forward passes a step, backward
    counted as 2, with a share f of rows r < t: 3 + 2f.

    Args:
        times: the joint law of (r, t).
        splits: lambda is uniform between these two; (0.5, 0.5) halves each interval.
        loss: a `keras.losses.Loss`; the squared error summed over the sample.
        guidance: what replaces `e - x`, or None.
        label_dropout: share of rows that get the null condition.
        path: from x, e, t to z_t and v.
        coupling: which noise belongs to which data.

    Raises:
        ValueError: for splits outside [0, 1] or out of order.

    Example:
        >>> FlowMap(DiT.from_size("B/2", image_size=32, channels=4), SplitMeanFlow())

    References:
        SplitMeanFlow: Interval Splitting Consistency in Few-Step Generative Modeling (arXiv
        2507.16884), Alg. 1; clcarwin/SplitMeanFlow_MNIST, which first takes 10,000 steps with v
        as the target of all rows; here `times=Uniform(fraction_r_equals_t=Steps(...))`.
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
        super().__post_init__()
        low, high = self.splits
        if not 0.0 <= low <= high <= 1.0:
            raise ValueError(f"splits are rising numbers in [0, 1]. Received: {self.splits}.")

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> Draws:
        """See `Objective.draw`."""
        draws = super().draw(keys, x, condition)
        low, high = self.splits
        uniform = keys.uniform("split", (ops.shape(draws.t)[0], 1))[:, 0]
        return draws._replace(extra=low + (high - low) * uniform)

    def average(self, u: Callable, below: Below) -> tuple[Tensor, dict[str, Tensor]]:
        """The average over both parts (Alg. 1); nothing is logged."""
        z, r, t, condition = below.z, below.r, below.t, below.condition
        split = below.draws.extra  # lambda
        s = (1.0 - split) * t + split * r
        u2 = u(z, s, t, condition)
        z_s = z - per_row(t - s, z) * u2
        u1 = u(z_s, r, s, condition)
        return per_row(1.0 - split, z) * u1 + per_row(split, z) * u2, {}

    def weight(self, draws: Draws) -> Tensor | None:
        """None: all rows weigh the same."""
        del draws
        return None
