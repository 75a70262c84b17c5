"""Trajectory regression: the average velocities between the states of a teacher's solver."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.problem import Problem, inputs_of
from keras_meanflow.parts.couplings import Independent
from keras_meanflow.parts.losses import SquaredError
from keras_meanflow.parts.part import part
from keras_meanflow.parts.paths import Linear
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.time_laws import Uniform
from keras_meanflow.parts.times import TimeSampler
from keras_meanflow.samplers import Euler
from keras_meanflow.samplers.base import Sampler, start


class TrajectoryDraws(NamedTuple):
    """Noise `e`, booleans `drop` of rows that lose their condition, and numbers `pair`.

    Each number of `pair`, (rows, pairs) in (0, 1), chooses two states of the row's trajectory.
    """

    e: Any
    drop: Any
    pair: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrajectoryProblem(Problem):
    """A `Problem` with `pairs` adjacent rows for each row of the batch."""

    pairs: int

    def weighted(self, sample_weight: Any) -> Problem:
        """See `Problem.weighted`."""
        if sample_weight is None:
            return self
        return super().weighted(ops.repeat(sample_weight, self.pairs, axis=0))


@part
class TrajectoryRegression(Objective):
    """Regress `u(z_t, r, t)` on `(z_t - z_r) / (t - r)`, both states of the teacher's trajectory.

    The teacher's solver goes from noise to data, and pairs of its states, t > r, are drawn
    uniformly. Of the data only the conditions are used, and there is no derivative. The student
    learns the solver's few steps, as an initialisation for MeanFlow training (CMT). The times are
    the ones that the solver visits. A step calls the teacher `sampler.calls` times, without
    gradient.

    Args:
        teacher: a `Network` that is a flow model; `FlowMap` freezes it.
        sampler: the solver: `Euler` or `Heun`, with `times=shifted_times(...)` if the teacher
            is sampled so.
        pairs: pairs of states for each trajectory, with replacement.
        loss: a `keras.losses.Loss`.
        label_dropout: share of trajectories without their condition.

    Raises:
        ValueError: for fewer than one pair.

    Example:
        >>> sampler = Euler(times=shifted_times(15, shift=6.93))
        >>> FlowMap(student, TrajectoryRegression(teacher=teacher, sampler=sampler))

    References:
        MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 3;
        sony/mf-rae `training_losses_cmt_v2`, whose times are in `EvenlyLabelled`.
    """

    teacher: Network
    sampler: Sampler = Euler(steps=15)
    pairs: int = 64
    loss: keras.losses.Loss = SquaredError()
    label_dropout: float = 0.1
    times: TimeSampler = Uniform(fraction_r_equals_t=0.0)
    path: Linear = Linear()
    coupling: Independent = Independent()

    logs = ("v_error", "u_error")

    def __post_init__(self):
        super().__post_init__()
        if self.pairs < 1:
            raise ValueError(f"pairs is at least 1. Received: {self.pairs}.")

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> TrajectoryDraws:
        """See `Objective.draw`."""
        x, e = self.coupling(keys, x, condition)
        rows = ops.shape(x)[0]
        drop = keys.uniform("drop", (rows, 1))[:, 0] < self.dropout(condition)
        return TrajectoryDraws(e, drop, keys.uniform("pair", (rows, self.pairs)))

    def labels(self) -> np.ndarray:
        """The time of each state that the student gets as input, float32."""
        return self.sampler.grid

    def __call__(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: TrajectoryDraws
    ) -> Problem:
        """See `Objective.__call__`."""
        condition = self.conditioned(u, condition, draws)
        states = ops.stack(self.trajectory(draws.e, condition))  # (states, B, ...)
        earlier, later = self._chosen(draws.pair)  # (B * pairs,)
        rows = ops.shape(draws.e)[0]
        row = ops.repeat(ops.arange(rows, dtype="int32"), self.pairs)
        flat = ops.reshape(states, (-1, *states.shape[2:]))
        z_t, z_r = (ops.take(flat, index * rows + row, axis=0) for index in (earlier, later))
        t, r = (ops.take(ops.convert_to_tensor(self.labels()), index) for index in (earlier, later))
        target = (z_t - z_r) / per_row(t - r, z_t)
        if condition is not None:
            condition = keras.tree.map_structure(lambda a: ops.take(a, row, axis=0), condition)
        inputs = inputs_of(z_t, r, t, condition)
        return TrajectoryProblem(inputs=inputs, target=target, pairs=self.pairs)

    def trajectory(self, z: Tensor, condition: Any) -> list[Tensor]:
        """The states that the teacher's solver visits, a list that starts with the noise `z`."""
        grid, states = self.sampler.grid, [z]
        z, ones = start(z)
        for t, r in zip(grid[:-1], grid[1:], strict=True):
            z = self.sampler.step(
                lambda z, r, t: self.teacher(z, r, t, condition),
                z,
                float(r) * ones,
                float(t) * ones,
            )
            states.append(z)
        return states

    def _chosen(self, pair):
        """The indices of the earlier and the later state of each pair, row after row."""
        earlier, later = np.triu_indices(len(self.sampler.grid), k=1)
        index = ops.cast(ops.reshape(pair, (-1,)) * len(earlier), "int32")
        index = ops.minimum(index, len(earlier) - 1)
        return tuple(
            ops.take(ops.convert_to_tensor(a.astype("int32")), index) for a in (earlier, later)
        )


@part
class EvenlyLabelled(TrajectoryRegression):
    """`TrajectoryRegression` with evenly spaced input times, whatever times the solver visits.

    So does the released code of MF-RAE: its solver's times are shifted towards noise, but the
    student's input is `1, 14/15, ..., 0`. The two agree at the ends, and for a shift of 1.

    References:
        sony/mf-rae `training_losses_cmt_v2`, `np.linspace(0, 1, ode_steps)`.
    """

    def labels(self) -> np.ndarray:
        """See `TrajectoryRegression.labels`."""
        return np.linspace(1.0, 0.0, len(self.sampler.grid), dtype="float32")
