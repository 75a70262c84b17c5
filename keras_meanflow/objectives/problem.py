"""A step's draws, and the regression problem that an objective makes of a batch."""

import dataclasses
from typing import Any, NamedTuple

import keras
from keras import ops


class Draws(NamedTuple):
    """The random numbers of one step, apart from the objective so that they can be passed in.

    `r`, `t`: (B,) times; `e`: what the coupling gives, mostly noise of the data's shape;
    `drop`: (B,) booleans, rows whose condition is replaced by the null condition; `progress`,
    `stage`: scalars, where in training they were drawn, for weights that change with it; `scale`,
    `own`: what the guidance and the objective itself draw besides, arrays (B, ...), or None;
    `guided`: the `Chosen` rows that guidance may act on, by their t, or None for all.
    """

    r: Any
    t: Any
    e: Any
    drop: Any
    progress: Any = 1.0
    stage: Any = 0
    scale: Any = None
    own: Any = None
    guided: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A regression: `loss(u(inputs), target + self_share * sg(u(inputs)))`, weighted by row.

    Args:
        inputs: dict of `z`, `r`, `t` and, if there is one, `condition`.
        target: what the network is to predict, of the shape of `z`.
        weight: (rows,) weights applied to each row's loss, or None.
        self_share: (rows,) share of the prediction itself in the target, or None.
        tangent: None, or the velocity v of the rows with r < t, (K, ...) of `Rows(rows, K)`: the
            target is then to lose `(t - r) du/dt` on them, with du/dt along (v, 0, 1) from the
            pass that makes the prediction.
        logs: name -> (values, weights), each (rows,): what to average into the logs.
        second: the `Problem` of a second output (`Objective.predict_both`), or None. Its loss, the
            mean over its own rows, is added.
        copies: how many rows there are for each row of the batch, all first ones first.
    """

    inputs: dict
    target: Any
    weight: Any = None
    self_share: Any = None
    tangent: Any = None
    logs: dict = dataclasses.field(default_factory=dict)
    second: "Problem | None" = None
    copies: int = 1

    def as_data(self):
        """The problem in the form of a batch that Keras' own steps take."""
        if self.second is not None:
            return self._with_second()
        target = {"target": self.target}
        if self.self_share is not None:
            target["self_share"] = self.self_share
        tangent = {} if self.tangent is None else {"tangent": self.tangent}
        return ({**self.inputs, **tangent}, target, self.weight)

    def _with_second(self):
        """Both problems' rows, weighted so that the mean over all is the sum of two means."""
        both = (self, self.second)
        rows = [ops.cast(ops.shape(problem.target)[0], "float32") for problem in both]
        filled = [
            problem.filled(weight=sum(rows) / count)
            for problem, count in zip(both, rows, strict=True)
        ]
        target = {
            name: ops.concatenate([getattr(problem, name) for problem in filled])
            for name in ("target", "self_share")
        }
        weight = ops.concatenate([problem.weight for problem in filled])
        return ({**self.inputs, "second": self.second.inputs}, target, weight)

    def filled(self, weight=1.0):
        """The problem with `weight` and `self_share` for every row, the former times `weight`."""
        ones = ops.ones_like(self.inputs["t"])
        return dataclasses.replace(
            self,
            weight=weight * (ones if self.weight is None else self.weight),
            self_share=0.0 * ones if self.self_share is None else self.self_share,
        )

    def weighted(self, sample_weight):
        """The problem with the user's (B,) weights multiplied in; None leaves it."""
        if sample_weight is None:
            return self
        weight = ops.tile(sample_weight, (self.copies,))
        weight = weight if self.weight is None else self.weight * weight
        second = None if self.second is None else self.second.weighted(sample_weight)
        return dataclasses.replace(self, weight=weight, second=second)


def joined(*problems):
    """One problem with the rows of several of the same batch, one problem after the other."""
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


def data_of(x):
    """The data array of `x`, which may be stored with its noise as {'x', 'e'}."""
    return x["x"] if isinstance(x, dict) else x


def inputs_of(z, r, t, condition):
    """The network's inputs as a dict; a condition of None is left out."""
    inputs = {"z": z, "r": r, "t": t}
    return inputs if condition is None else {**inputs, "condition": condition}


def arguments_of(inputs):
    """`z, r, t, condition` from such a dict."""
    return inputs["z"], inputs["r"], inputs["t"], inputs.get("condition")
