"""What every objective shares: the draws of a step and the regression problem it makes of them."""

import abc
import dataclasses
import itertools
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_meanflow.configurable import Configurable
from keras_meanflow.networks.base import Network
from keras_meanflow.schedules import bounds_of
from keras_meanflow.times import count_r_below_t


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


class Objective(Configurable, abc.ABC):
    """Turns a batch into a `Problem`. A subclass writes `__call__(u, x, condition, draws)`.

    Its fields are at least `path`, `coupling`, `times`, `loss` and `label_dropout`. `u(z, r, t,
    condition)` is any callable; `u.drop(condition, drop)` gives the null condition to some rows,
    and `u.velocity(z, r, t, condition)` is the second head of networks that have one.

    An objective that needs networks of its own has them as fields, or as fields of its parts, and
    calls them like u. `FlowMap` tracks them, saves them and resumes with them; they are in no
    average.

    - A teacher, say `teacher: Network`: `FlowMap` freezes it. Give a copy where the network is
      trained itself: `other.network_with(other.average)`.
    - A network that is trained along is the field `companion: Network`. Its regression is
      `Problem.second`, whose rows join the batch of the one optimizer; targets are under a
      stop-gradient, so neither loss reaches the other network. With "second_error" among its
      `logs`, the objective has the mean squared error of these rows logged.
    - A second output of the same network (a head) is `Problem.second` too, with its own
      `predict_both`.
    """

    guidance = None
    companion = None
    logs = ("v_error",)

    @property
    def teachers(self):
        """The networks in the fields of the objective and its parts, but for `companion`."""
        return [network for network in _networks_in(self) if network is not self.companion]

    def predict_both(self, network, inputs, second):
        """The rows of a problem with a second output: u(inputs), then `companion` at `second`."""
        return ops.concatenate(
            [network(*arguments_of(inputs)), self.companion(*arguments_of(second))]
        )

    def check_network(self, network):
        """Raise a ValueError if `network` lacks what the objective trains."""

    def draw(self, keys, x, condition=None):
        """The `Draws` of one step, a pure function of `keys`."""
        x, e = self.coupling(keys, x, condition)
        rows = ops.shape(x)[0]
        r, t = self.times.draw(keys, rows)
        drop = keys.uniform("drop", (rows, 1))[:, 0] < self.dropout(condition)
        if self.guidance is None:
            return Draws(r, t, e, drop, keys.progress, keys.stage)
        scale = self.guidance.draw(keys, r, t)
        guided = self.guidance.rows(self.times, t, drop, self.dropout(condition))
        return Draws(r, t, e, drop, keys.progress, keys.stage, scale, guided=guided)

    def start(self, noise, condition):
        """Where sampling starts, `z_1`, by standard normal noise of the data's shape."""
        return self.path.start(self.coupling.of_noise(noise, condition))

    def dropout(self, condition):
        """The share of rows that lose their condition."""
        return 0.0 if condition is None else self.label_dropout

    def conditioned(self, u, condition, draws):
        """The condition that the network sees: the null condition on the rows of `draws.drop`."""
        return u.drop(condition, draws.drop) if self.dropout(condition) > 0.0 else condition

    def check_batch(self, rows):
        """Raise a ValueError if a nominal batch of `rows` is too small for the time sampler."""
        share = bounds_of(self.times.fraction_r_equals_t)[0]
        if share < 1.0 and count_r_below_t(rows, share) == 0:
            least = next(b for b in itertools.count(1) if count_r_below_t(b, share))
            raise ValueError(
                f"A batch needs a row with r < t: at fraction_r_equals_t={share} it has at least "
                f"{least} rows. Received: {rows}. Raise batch_size or lower the share."
            )

    @abc.abstractmethod
    def __call__(self, u, x, condition, draws):
        """The `Problem` of a batch."""

    def training_problem(self, u, x, condition, draws):
        """The `Problem` in the form in which training solves it fastest; the same regression."""
        return self(u, x, condition, draws)


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


def _networks_in(part):
    """The networks in a part's fields and in those of the parts within it, each once."""
    if isinstance(part, Network):
        return [part]
    values = (getattr(part, name) for name in getattr(part, "__dataclass_fields__", ()))
    return list(dict.fromkeys(network for value in values for network in _networks_in(value)))
