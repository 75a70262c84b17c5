"""What every law of (r, t) shares: the share of rows with r = t, means of the law, its state."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor, untraced
from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.lattice import Lattice
from keras_meanflow.parts.part import Configurable, fields_of
from keras_meanflow.parts.ranges import check_within
from keras_meanflow.parts.rows import Rows, count_r_below_t, mask_of_share
from keras_meanflow.parts.schedules import Schedule, bounds_of, scheduled_values

_TABLE = 65  # values of progress at which a scheduled law's means are tabulated


class StateVariable(NamedTuple):
    """A scalar that training carries from step to step.

    `first`: its first value, an int (kept as int32) or a float (kept as float32); `logged`: whether
    it is a column of the logs.
    """

    first: int | float
    logged: bool = False


class TimeSampler(Configurable, abc.ABC):
    """Draws (r, t) with 0 <= r <= t <= 1, a fixed share of the rows on the diagonal r = t.

    A subclass writes `pair`. The share may be a schedule: its least value fixes which rows may have
    r < t, and a mask then selects among these rows.

    A law that depends on earlier steps declares scalars in `state`, by name, and writes
    `update_state`. A `FlowMap` keeps and saves them; `keys.state` has their present values. A law
    with several `stages` has a scalar `stage`, the index of the present stage.
    """

    fraction_r_equals_t: float | Schedule
    state: dict[str, StateVariable] = {}
    stages = 1

    def __post_init__(self):
        fields = fields_of(self).items()
        check_within("(0, inf)", **{name: std for name, std in fields if name.endswith("std")})
        if not all(0.0 <= share <= 1.0 for share in bounds_of(self.fraction_r_equals_t)):
            raise ValueError(
                "fraction_r_equals_t is a share of rows, in [0, 1]. "
                f"Received: {self.fraction_r_equals_t}."
            )

    def rows(self, rows: int) -> Rows:
        """A batch of `rows`, divided into those that may have r < t and those with r = t."""
        return Rows(rows, self.count_derived(rows))

    def draw(self, keys: Keys, rows: int | Rows) -> tuple[Tensor, Tensor]:
        """`r` and `t`, float32 of shape (rows,), for a number of rows or a `Rows`."""
        rows = rows if isinstance(rows, Rows) else self.rows(rows)
        below = rows.mask
        if isinstance(self.fraction_r_equals_t, Schedule):
            below = mask_of_share(below, rows.count, self.fraction_r_equals_t(keys.progress))
        return self.pair(keys, rows.total, below)

    def count_derived(self, rows: int) -> int:
        """The number of rows for which a derivative is computed: the most that may have r < t."""
        return count_r_below_t(rows, bounds_of(self.fraction_r_equals_t)[0])

    def update_state(self, state: dict[str, Any], errors: dict[str, tuple]) -> dict[str, Any]:
        """The state after a step.

        Args:
            state: the present values by name.
            errors: name of a squared error, such as `v_error` -> its sum over the rows of the whole
                batch that count for it, and their number.
        """
        del errors
        return state

    @property
    def final_state(self) -> dict[str, Any]:
        """The state in which training ends; evaluation uses it."""
        return {"stage": self.stages - 1} if "stage" in self.state else {}

    def mean_gaps(self) -> np.ndarray:
        """`E[t - r]` over the rows with r < t, as `tabulate` gives it."""
        return self.tabulate(lambda r, t: t - r)

    def tabulate(self, function: Callable, *, below: bool = True) -> np.ndarray:
        """`E[function(r, t)]`, float32: by stage, by progress, or one number.

        Shape (stages,) for a law with stages, (65,) over equally spaced progress for one with
        schedules, (1,) otherwise. `look_up` reads it.

        Args:
            function: `function(r, t)`, from (n,) tensors to an (n,) tensor.
            below: take the mean over the rows with r < t, or else over the rows with r = t.

        Raises:
            ValueError: for a law that moves both by stages and by schedules.
        """
        moving = set(scheduled_values(self)) - {"fraction_r_equals_t"}
        if self.stages > 1 and moving:
            raise ValueError(
                "The means of a law that moves both by stages and by schedules are not "
                f"tabulated. Received: {self.stages} stages and schedules of {sorted(moving)}."
            )
        if self.stages > 1:
            states = [(1.0, {"stage": stage}) for stage in range(self.stages)]
        elif moving:
            states = [(float(p), self.final_state) for p in np.linspace(0.0, 1.0, _TABLE)]
        else:
            states = [(1.0, self.final_state)]
        return np.array([self._mean(function, below, *state) for state in states], "float32")

    def _mean(self, function, below, progress, state):
        r, t = self.even_pairs(progress, state, below=below)
        rows = (r < t) == below
        with untraced():
            r, t = (ops.convert_to_tensor(times[rows]) for times in (r, t))
            return ops.convert_to_numpy(function(r, t)).astype("float64").mean()

    def even_pairs(
        self,
        progress: float = 1.0,
        state: dict[str, Any] | None = None,
        *,
        below: bool = True,
    ) -> tuple[np.ndarray, np.ndarray]:
        """NumPy arrays r, t that fill this law evenly: means over them are expectations.

        It also works inside a traced step. Without `state` it takes the final one. With `below`
        they are rows with r < t, otherwise rows with r = t.
        """
        lattice = Lattice(progress, self.final_state if state is None else state)
        with untraced():
            mask = ops.full((lattice.rows,), below, dtype="bool")
            pairs = self.pair(lattice, lattice.rows, mask)
            return tuple(ops.convert_to_numpy(times) for times in pairs)

    def look_up(self, table: np.ndarray, progress: Tensor | float, state: dict[str, Any]) -> Tensor:
        """The value of a table from `tabulate`, linear between two entries."""
        table = ops.convert_to_tensor(table)
        if self.stages > 1:
            return ops.take(table, state["stage"])
        place = ops.cast(progress, "float32") * (table.shape[0] - 1)
        low = ops.minimum(ops.cast(place, "int32"), max(table.shape[0] - 2, 0))
        high = ops.minimum(low + 1, table.shape[0] - 1)
        start, end = ops.take(table, low), ops.take(table, high)
        return start + (end - start) * (place - ops.cast(low, "float32"))

    @abc.abstractmethod
    def pair(self, keys: Keys, rows: int, below: Tensor) -> tuple[Tensor, Tensor]:
        """`r` and `t`, equal where the booleans `below` (rows,) are False."""
