"""What every objective shares: the draws of a step and the regression problem it makes of them."""

import abc
import itertools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.problem import Draws, Problem, arguments_of
from keras_meanflow.parts.part import Configurable
from keras_meanflow.parts.ranges import check_within
from keras_meanflow.parts.rows import count_r_below_t
from keras_meanflow.parts.schedules import bounds_of
from keras_meanflow.parts.times import StateVariable


class Objective(Configurable, abc.ABC):
    """Turns a batch into a `Problem`. A subclass writes `__call__(u, x, condition, draws)`.

    Its fields are at least `path`, `coupling`, `times`, `loss` and `label_dropout`. `u(z, r, t,
    condition)` is any callable; `u.drop(condition, drop)` gives the null condition to some rows,
    and `u.velocity(z, r, t, condition)` is the second head of networks that have one.

    An objective may need other networks. They are fields of the objective or of its parts, and are
    called like u. `FlowMap` tracks and saves them and resumes with them, but does not average them.

    - A teacher, say `teacher: Network`, is frozen by `FlowMap`. If the teacher itself is still
      trained elsewhere, give a copy: `other.network_with(other.average)`.
    - A second network that is trained too is the field `companion: Network`. Its regression is
      `Problem.second`: its rows join the batch, for one optimizer. Targets are under a
      stop-gradient, so neither loss reaches the other network. With "second_error" among `logs`,
      the mean squared error of these rows is logged.
    - A second head of the same network is also `Problem.second`; the objective then writes
      `predict_both`.
    """

    guidance = None
    companion = None
    logs = ("v_error",)

    def __post_init__(self):
        check_within("[0, 1]", label_dropout=self.label_dropout)

    @property
    def teachers(self) -> list[Network]:
        """The networks in the fields of the objective and its parts, except `companion`."""
        return [network for network in _networks_in(self) if network is not self.companion]

    def predict_both(self, u: Callable, inputs: dict, second: dict) -> Tensor:
        """The predictions of a problem with a second output: u(inputs), then companion(second)."""
        return ops.concatenate([u(*arguments_of(inputs)), self.companion(*arguments_of(second))])

    def check_network(self, network: Network) -> None:
        """Raise a ValueError if `network` lacks what the objective trains."""

    @property
    def loss_layer(self) -> type[keras.Layer] | None:
        """The class of a layer that the loss trains together with the network, or None."""
        return getattr(self.loss, "layer", None)

    def loss_of(
        self,
        problem: Problem,
        y_pred: Any,
        *,
        layer: keras.Layer | None = None,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """The scalar loss of a prediction; `layer` is an instance of `loss_layer`."""
        u, target = problem.compare(y_pred)
        if layer is not None:
            u = {"u": u, "log_variance": layer(*problem.times())}
        return self.loss(target, u, sample_weight=sample_weight)

    @property
    def state(self) -> dict[str, StateVariable]:
        """What training carries from step to step: name -> `StateVariable`; see `TimeSampler`."""
        return self.times.state

    @property
    def final_state(self) -> dict[str, Any]:
        """The state in which training ends, by name."""
        return self.times.final_state

    def update_state(self, state: dict[str, Any], errors: dict[str, tuple]) -> dict[str, Any]:
        """The state after a step; see `TimeSampler.update_state`."""
        return self.times.update_state(state, errors)

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> Draws:
        """The `Draws` of one step, a pure function of `keys`."""
        x, e = self.coupling(keys, x, condition)
        rows = self.times.rows(ops.shape(x)[0])
        r, t = self.times.draw(keys, rows)
        drop = keys.uniform("drop", (rows.total, 1))[:, 0] < self.dropout(condition)
        scale = None if self.guidance is None else self.guidance.draw(keys, r, t)
        return Draws(r, t, e, drop, keys.progress, keys.state, scale, rows=rows)

    def start(self, noise: Tensor, condition: Any) -> Tensor:
        """`z_1`, where sampling starts, from standard normal noise of the data's shape."""
        return self.path.start(self.coupling.of_noise(noise, condition))

    def dropout(self, condition: Any) -> float:
        """The share of rows that lose their condition."""
        return 0.0 if condition is None else self.label_dropout

    def conditioned(self, u: Callable, condition: Any, draws: Draws) -> Any:
        """The condition that the network sees: the null condition on the rows of `draws.drop`."""
        return u.drop(condition, draws.drop) if self.dropout(condition) > 0.0 else condition

    def check_batch(self, rows: int) -> None:
        """Raise a ValueError if a nominal batch of `rows` is too small for the time sampler."""
        share = bounds_of(self.times.fraction_r_equals_t)[0]
        if share < 1.0 and count_r_below_t(rows, share) == 0:
            least = next(b for b in itertools.count(1) if count_r_below_t(b, share))
            raise ValueError(
                f"A batch needs a row with r < t: fraction_r_equals_t={share} takes at least "
                f"{least} rows. Received: {rows}. Raise batch_size or lower the share."
            )

    @abc.abstractmethod
    def __call__(self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws) -> Problem:
        """The `Problem` of a batch."""

    def training_problem(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws
    ) -> Problem:
        """The same regression as a `Problem` in the form that trains fastest."""
        return self(u, x, condition, draws)


def _networks_in(part):
    """The networks in a part's fields and in the fields of its parts, each once."""
    if isinstance(part, Network):
        return [part]
    values = (getattr(part, name) for name in getattr(part, "__dataclass_fields__", ()))
    return list(dict.fromkeys(network for value in values for network in _networks_in(value)))
