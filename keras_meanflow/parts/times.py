"""Joint samplers of (r, t), and which rows of a batch have r < t."""

import abc
import itertools

import numpy as np
from keras import ops

from keras_meanflow.backend import untraced
from keras_meanflow.parts.lattice import Lattice
from keras_meanflow.parts.part import Configurable
from keras_meanflow.parts.rows import count_r_below_t, mask_of_share, mask_r_below_t
from keras_meanflow.parts.schedules import Schedule, bounds_of, scheduled_values

_TABLE = 65  # values of progress at which a scheduled law's mean gap is tabulated


class TimeSampler(Configurable, abc.ABC):
    """Draws (r, t) with 0 <= r <= t <= 1, a fixed share of the rows on the diagonal r = t.

    A subclass draws one time from two standard normals a row and says how the pair is ordered.
    The share may be a schedule: it is then a mask over the rows of its least value.
    """

    fraction_r_equals_t: float | Schedule
    pacing = None  # of samplers that move by stages: when to

    def __post_init__(self):
        if not all(0.0 <= share <= 1.0 for share in bounds_of(self.fraction_r_equals_t)):
            raise ValueError(
                "fraction_r_equals_t is a share of rows, in [0, 1]. "
                f"Received: {self.fraction_r_equals_t}."
            )

    def draw(self, keys, rows):
        """`r` and `t`, float32 of shape (rows,)."""
        count = self.count_derived(rows)
        below = mask_r_below_t(rows, count)
        if isinstance(self.fraction_r_equals_t, Schedule):
            below = mask_of_share(below, count, self.fraction_r_equals_t(keys.progress))
        return self.pair(keys, rows, below)

    def count_derived(self, rows):
        """The number of rows for which a derivative is computed: the most that may have r < t."""
        return count_r_below_t(rows, bounds_of(self.fraction_r_equals_t)[0])

    def mean_gaps(self):
        """`E[t - r]` over the rows with r < t, float32: of each stage, or over progress, or one.

        Shape (stages,) for a sampler with `pacing`, (65,) over equally spaced progress for one
        with schedules, (1,) otherwise. `look_up` reads it.
        """
        moving = set(scheduled_values(self)) - {"fraction_r_equals_t"}
        if self.pacing is not None and moving:
            raise ValueError(
                "The mean gap of a law that moves both by stages and by schedules is not "
                f"tabulated. Received: pacing and schedules of {sorted(moving)}."
            )
        if self.pacing is not None:
            states = [(1.0, stage) for stage in range(self.pacing.stages)]
        elif moving:
            states = [(float(p), 0) for p in np.linspace(0.0, 1.0, _TABLE)]
        else:
            states = [(1.0, 0)]
        return np.array([self._mean_gap(*state) for state in states], "float32")

    def _mean_gap(self, progress, stage):
        r, t = self.even_pairs(progress, stage)
        gap = (t - r).astype("float64")
        return gap[gap > 0.0].mean()

    def even_pairs(self, progress=1.0, stage=0, equal=False):
        """r and t, NumPy, that fill this law evenly: their means are expectations.

        With r < t, or those of the rows with r = t. Inside a traced step too.
        """
        lattice = Lattice(progress, stage)
        with untraced():
            below = ops.full((lattice.rows,), not equal)
            pairs = self.pair(lattice, lattice.rows, below)
            return tuple(ops.convert_to_numpy(times) for times in pairs)

    def share_between(self, start, end):
        """The largest share of the rows whose t lies in [start, end], over all of training.

        Of the rows with r < t, or of those with r = t, whichever have more.
        """
        moving = set(scheduled_values(self)) - {"fraction_r_equals_t"}
        progress = np.linspace(0.0, 1.0, _TABLE) if moving else (1.0,)
        stages = range(self.last_stage + 1)
        shares = (
            np.mean((t >= start) & (t <= end))
            for state in itertools.product(map(float, progress), stages, (False, True))
            for _, t in [self.even_pairs(*state)]
        )
        return float(max(shares))

    @property
    def last_stage(self):
        """The stage in which training ends; 0 without `pacing`."""
        return self.pacing.stages - 1 if self.pacing else 0

    def look_up(self, table, progress, stage):
        """The entry of a table from `mean_gaps`, between two entries on a straight line."""
        table = ops.convert_to_tensor(table)
        if self.pacing is not None:
            return ops.take(table, stage)
        place = ops.cast(progress, "float32") * (table.shape[0] - 1)
        low = ops.minimum(ops.cast(place, "int32"), max(table.shape[0] - 2, 0))
        high = ops.minimum(low + 1, table.shape[0] - 1)
        start, end = ops.take(table, low), ops.take(table, high)
        return start + (end - start) * (place - ops.cast(low, "float32"))

    @abc.abstractmethod
    def pair(self, keys, rows, below):
        """`r` and `t`, equal where `below` is False."""
