"""The draws of a step, and the regression problem that an objective makes from a batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_meanflow.backend import Tensor, jvp_with_gradient
from keras_meanflow.parts.losses import squared_norm
from keras_meanflow.parts.rows import Rows, per_row

_INPUTS = ("z", "r", "t", "condition")
# What `Problem.errors` and `Problem.weight_shares` give; the rest is in `Problem.logs`.
LOGGED_OF_ALL = {"v_error", "u_error", "second_error", "v_weight", "u_weight"}


class Draws(NamedTuple):
    """The random numbers of one step, separate from the objective so that they can be passed in.

    - `r`, `t`: (B,) times.
    - `e`: what the coupling gives, mostly noise of the data's shape.
    - `drop`: (B,) booleans, the rows whose condition becomes the null condition.
    - `progress`, `state`: of training at this step, for weights that depend on them.
    - `scale`, `extra`: what the guidance and the objective draw, arrays (B, ...) or None.
    - `rows`: the `Rows` of the batch, or None to make them from the time law.
    """

    r: Any
    t: Any
    e: Any
    drop: Any
    progress: Any = 1.0
    state: dict[str, Any] | None = None
    scale: Any = None
    extra: Any = None
    rows: Rows | None = None

    def below(self, rows: Rows) -> Draws:
        """The draws of the rows that may have r < t."""
        by_row = {name: getattr(self, name) for name in _BY_ROW}
        taken = rows.below({name: a for name, a in by_row.items() if a is not None})
        return self._replace(**taken, rows=None)


_BY_ROW = ("r", "t", "e", "drop", "scale", "extra")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A regression: `loss(u(inputs), target + self_share * sg(u(inputs)))`, weighted by row.

    Args:
        inputs: dict of `z`, `r`, `t` and, if there is one, `condition`.
        target: what the network should predict, of the shape of `z`.
        weight: (rows,) weights applied to each row's loss, or None.
        self_share: (rows,) share of the prediction itself in the target, or None.
        tangent: None, or the velocity v of the rows with r < t, (K, ...) of `Rows(rows, K)`. On
            these rows `(t - r) du/dt` is then subtracted from the target, with du/dt along
            (v, 0, 1) from the pass that makes the prediction.
        logs: what to average into the logs, name -> (values, weights), each (rows,).
        second: the `Problem` of a second output (`Objective.predict_both`), or None. Its loss, the
            mean over its rows, is added.
        copies: how many rows the problem has for each row of the batch; the copies of the whole
            batch follow one another.
    """

    inputs: dict
    target: Any
    weight: Any = None
    self_share: Any = None
    tangent: Any = None
    logs: dict = dataclasses.field(default_factory=dict)
    second: Problem | None = None
    copies: int = 1

    # The form in which Keras' steps take a problem: a batch (x, y, sample_weight).

    def as_data(self) -> tuple:
        """The problem as a batch `(x, y, sample_weight)`; `of_data` is the inverse."""
        if self.second is not None:
            return self._with_second()
        y = {"target": self.target, "self_share": self.self_share}
        x = {**self.inputs, "tangent": self.tangent}
        return _given(x), _given(y), self.weight

    def _with_second(self):
        """The rows of both problems, weighted so that their mean is the sum of the two means."""
        both = (self, self.second)
        rows = [ops.cast(ops.shape(problem.target)[0], "float32") for problem in both]
        filled = [
            problem.filled(weight=sum(rows) / count)
            for problem, count in zip(both, rows, strict=True)
        ]
        y = {
            name: ops.concatenate([getattr(problem, name) for problem in filled])
            for name in ("target", "self_share")
        }
        weight = ops.concatenate([problem.weight for problem in filled])
        return {**self.inputs, "second": self.second.inputs}, y, weight

    @classmethod
    def of_data(cls, x: dict, y: dict | None = None) -> Problem:
        """The problem of a batch from `as_data`, without weights; without y, only its inputs.

        In `target` and `self_share` the rows of a second problem follow those of the first.
        """
        y = y or {}
        return cls(
            inputs=_given({name: x.get(name) for name in _INPUTS}),
            target=y.get("target"),
            self_share=y.get("self_share"),
            tangent=x.get("tangent"),
            second=cls(inputs=x["second"], target=None) if "second" in x else None,
        )

    def predict(self, u: Callable, predict_both: Callable) -> Any:
        """What the network predicts from the inputs.

        Args:
            u: the network.
            predict_both: from u, the inputs and the second problem's inputs to the rows of both.

        Returns:
            The prediction (rows, ...). For a problem with a `tangent`, a dict of `u` and `du_dt`;
            `du_dt` is zero on the rows with r = t.
        """
        if self.second is not None:
            return predict_both(u, self.inputs, self.second.inputs)
        if self.tangent is not None:
            return self._in_one_pass(u)
        return u(*arguments_of(self.inputs))

    def _in_one_pass(self, u):
        rows = Rows(ops.shape(self.inputs["z"])[0], ops.shape(self.tangent)[0])
        z, r, t, condition = arguments_of(rows.below(self.inputs))
        predicted, du_dt = jvp_with_gradient(
            lambda z, r, t: u(z, r, t, condition),
            (z, r, t),
            (self.tangent, ops.zeros_like(r), ops.ones_like(t)),
        )
        du_dt = rows.replace(ops.zeros_like(self.inputs["z"]), du_dt)
        if not rows.all_below:
            predicted = rows.join(predicted, u(*arguments_of(rows.equal(self.inputs))))
        return {"u": predicted, "du_dt": du_dt}

    def compare(self, y_pred: Any) -> tuple:
        """The prediction u and its target, including the parts that depend on the prediction.

        No gradient flows through the target.
        """
        u, target = y_pred, self.target
        if self.tangent is not None:
            u = y_pred["u"]
            gap = per_row(self.inputs["t"] - self.inputs["r"], u)
            target = target - gap * y_pred["du_dt"]  # MeanFlow, Eq. 10
        if self.self_share is not None:
            share = per_row(self.self_share, u)
            target = target + share * ops.stop_gradient(ops.cast(u, "float32"))
        return u, target

    def times(self) -> tuple:
        """`r` and `t` of all rows; the rows of a second problem follow those of the first."""
        if self.second is None:
            return self.inputs["r"], self.inputs["t"]
        both = (self.inputs, self.second.inputs)
        return tuple(ops.concatenate([inputs[name] for inputs in both]) for name in "rt")

    def errors(self, y_pred: Any) -> dict[str, tuple]:
        """What to log about a prediction: name -> (values, weights), each (rows,).

        `v_error` and `u_error` are the unnormalised squared errors of rows with r = t and of rows
        with r < t; `second_error` is that of the second problem. Where the target is the prediction
        plus a correction, the squared error is only the correction's size: such rows are left out.
        """
        r, t = self.inputs["r"], self.inputs["t"]
        u, target = self.compare(y_pred)
        error = squared_norm(ops.cast(u, "float32") - target)
        rows = ops.shape(t)[0]
        below = ops.cast(r < t, "float32")
        counted = ops.ones_like(t)
        if self.self_share is not None:
            counted = ops.cast(self.self_share[:rows] != 1.0, "float32")
        found = {
            "v_error": (error[:rows], (1.0 - below) * counted),
            "u_error": (error[:rows], below * counted),
        }
        if self.second is not None:
            found["second_error"] = (error[rows:], None)
        if self.tangent is not None:
            found["du_dt_norm"] = (ops.sqrt(squared_norm(y_pred["du_dt"])), below)
        return found

    def weight_shares(self) -> dict[str, tuple]:
        """The shares of the weight on rows with r = t and with r < t, to log: their sum is 1.

        `v_weight`, `u_weight` -> (1 on the rows that it counts, the weights), each (rows,).
        """
        below = ops.cast(self.inputs["r"] < self.inputs["t"], "float32")
        weight = ops.ones_like(below) if self.weight is None else self.weight
        return {"v_weight": (1.0 - below, weight), "u_weight": (below, weight)}

    def filled(self, weight: Any = 1.0) -> Problem:
        """The problem with weights and `self_share` for every row, the weights times `weight`."""
        ones = ops.ones_like(self.inputs["t"])
        return dataclasses.replace(
            self,
            weight=weight * (ones if self.weight is None else self.weight),
            self_share=0.0 * ones if self.self_share is None else self.self_share,
        )

    def weighted(self, sample_weight: Any) -> Problem:
        """The problem with the user's (B,) weights multiplied in; None changes nothing."""
        if sample_weight is None:
            return self
        weight = ops.tile(sample_weight, (self.copies,))
        weight = weight if self.weight is None else self.weight * weight
        second = None if self.second is None else self.second.weighted(sample_weight)
        return dataclasses.replace(self, weight=weight, second=second)


def joined(*problems: Problem) -> Problem:
    """One problem with the rows of several problems of one batch, one after the other."""
    filled = [problem.filled() for problem in problems]
    names = sorted({name for problem in problems for name in problem.logs})
    return Problem(
        inputs=_rows_of([problem.inputs for problem in problems]),
        target=_rows_of([problem.target for problem in problems]),
        weight=_rows_of([problem.weight for problem in filled]),
        self_share=_rows_of([problem.self_share for problem in filled]),
        logs={n: _rows_of([p.logs[n] for p in problems if n in p.logs]) for n in names},
        copies=sum(problem.copies for problem in problems),
    )


def _rows_of(trees):
    return keras.tree.map_structure(lambda *arrays: ops.concatenate(arrays, axis=0), *trees)


def _given(entries):
    """The entries that are not None."""
    return {name: value for name, value in entries.items() if value is not None}


def data_of(x: Tensor | dict) -> Tensor:
    """The data array of `x`, which may be stored with its noise as {'x', 'e'}."""
    return x["x"] if isinstance(x, dict) else x


def inputs_of(z: Tensor, r: Tensor, t: Tensor, condition: Any) -> dict:
    """The network's inputs as a dict; a condition of None is left out."""
    return _given({"z": z, "r": r, "t": t, "condition": condition})


def arguments_of(inputs: dict) -> tuple:
    """`z, r, t, condition` from a dict of inputs; None where there is no condition."""
    return tuple(inputs.get(name) for name in _INPUTS)
