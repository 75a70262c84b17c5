"""MeanFlow with a velocity that is harder to learn: noise in the targets of rows with r = t."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives.base import Objective
from keras_meanflow.objectives.mean_flow import MeanFlow
from keras_meanflow.objectives.problem import Draws, Problem, data_of
from keras_meanflow.parts.losses import squared_norm
from keras_meanflow.parts.part import part
from keras_meanflow.parts.rows import per_row


def _of_the_objective(name):
    return property(lambda self: getattr(self.objective, name))


@part
class NoisyVelocity(Objective):
    """Another objective's target plus `k ||v|| n`, `n ~ N(0, I)`, on the rows with r = t.

    `||v||` is the norm of the row's whole conditional velocity `e - x`. So for data of D numbers
    the noise is `k sqrt(D)` times as long as v: about twice at k = 0.03 and D = 4096, where the
    paper finds that it harms the average velocity. The noise has mean 0 and is new at each step. So
    the squared error has the same solution in the limit. An adaptive loss also gives the noisy rows
    less weight. Rows with r < t do not change.

    Args:
        objective: the other objective.
        k: standard deviation of the noise in each coordinate, in units of `||v||`.

    Raises:
        ValueError: for a negative k.

    Example:
        >>> FlowMap(network, NoisyVelocity(objective=MeanFlow(), k=0.03))

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 4.
    """

    objective: Objective = MeanFlow()
    k: float = 0.03

    path = _of_the_objective("path")
    coupling = _of_the_objective("coupling")
    times = _of_the_objective("times")
    loss = _of_the_objective("loss")
    label_dropout = _of_the_objective("label_dropout")
    guidance = _of_the_objective("guidance")
    logs = _of_the_objective("logs")
    companion = _of_the_objective("companion")
    state = _of_the_objective("state")
    final_state = _of_the_objective("final_state")
    update_state = _of_the_objective("update_state")
    predict_both = _of_the_objective("predict_both")
    check_network = _of_the_objective("check_network")

    def __post_init__(self):
        super().__post_init__()
        if not self.k >= 0.0:
            raise ValueError(f"k must be at least 0. Received: {self.k}.")

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> Draws:
        """See `Objective.draw`."""
        draws = self.objective.draw(keys, x, condition)
        noise = keys.normal("target_noise", ops.shape(data_of(x)))
        return draws._replace(extra=(draws.extra, noise))

    def __call__(self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws) -> Problem:
        """See `Objective.__call__`."""
        return self._with_noise(self.objective, u, x, condition, draws)

    def training_problem(
        self, u: Callable, x: Tensor | dict, condition: Any, draws: Draws
    ) -> Problem:
        """See `Objective.training_problem`."""
        return self._with_noise(self.objective.training_problem, u, x, condition, draws)

    def _with_noise(self, make, u, x, condition, draws):
        extra, noise = draws.extra
        problem = make(u, x, condition, draws._replace(extra=extra))
        _, v = self.path(data_of(x), draws.e, draws.t)
        std = ops.where(draws.r < draws.t, 0.0, self.k * ops.sqrt(squared_norm(v)))
        return dataclasses.replace(problem, target=problem.target + per_row(std, v) * noise)
