"""JAX: the train and test steps of a FlowMap, and the check of each batch before them."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np

from keras_meanflow.backend.recording import recorded_gradients

_STATES = {
    4: (
        "trainable_variables",
        "non_trainable_variables",
        "optimizer_variables",
        "metrics_variables",
    ),
    3: ("trainable_variables", "non_trainable_variables", "metrics_variables"),
}


class Trainer:
    """The steps of a FlowMap: build the problem without gradient, then call Keras' step on it."""

    def train_step(self, state: tuple, data: Any) -> tuple[dict, tuple]:
        """One optimizer step; `state` holds trainable, other, optimizer and metric values."""
        trainable, other, _, _ = state
        with keras.StatelessScope(self._mapping(trainable, other)):
            problem = self.build_problem(data, training=True)
        with recorded_gradients(self.optimizer, "stateless_apply", position=1) as gradients:
            _, state = super().train_step(state, problem.as_data())
        trainable, other, optimizer, metrics = state

        def finish():
            self.finish_train_step(problem, gradients)
            return self.get_metrics_result()

        logs, other, metrics = self._finish(finish, trainable, other, metrics)
        return logs, (trainable, other, optimizer, metrics)

    def make_train_function(self, force: bool = False) -> None:
        """As in Keras; each batch is checked before its step, which is compiled."""
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            self.train_function = self._checked(self.train_function)

    def make_test_function(self, force: bool = False) -> None:
        """As in Keras; each batch is checked before its step, which is compiled."""
        before = self.test_function
        super().make_test_function(force)
        if self.test_function is not before:
            self.test_function = self._checked(self.test_function)

    def _checked(self, function):
        """The step with a check of its batches; a refused batch leaves the model as it is."""

        def step(state, iterator):
            batches = list(itertools.islice(iterator, self.steps_per_execution))
            try:
                for batch in batches:
                    self.check_batch(jax.tree.map(_on_host, batch))
            except ValueError:
                # Keras has taken the values out of the variables while it trains.
                self._jax_state = dict(zip(_STATES[len(state)], state, strict=True))
                self.jax_state_sync()
                raise
            return function(state, iter(batches))

        return step

    @property
    def test_step(self) -> Callable:
        """One evaluation step; a new function each time, or `jax.jit` would reuse the old one."""
        return lambda state, data: self._test_step(state, data)

    def _test_step(self, state, data):
        """One evaluation step, with the chosen average in the place of the weights."""
        trainable, other, metrics = state
        given = {id(variable): value for variable, value in self._mapping(trainable, other)}
        chosen = {id(raw): given[id(used)] for raw, used in self.chosen_pairs()}
        used = [
            [chosen.get(id(v), given[id(v)]) for v in variables]
            for variables in (self.trainable_variables, self.non_trainable_variables)
        ]
        with keras.StatelessScope(self._mapping(*used)):
            problem = self.build_problem(data, training=False)
        _, (_, after, metrics) = super().test_step((*used, metrics), problem.as_data())
        pairs = zip(self.non_trainable_variables, after, strict=True)
        other = [given[id(v)] if id(v) in chosen else value for v, value in pairs]  # frozen ones

        def finish():
            self.finish_test_step(problem)
            return self.test_logs()

        logs, other, metrics = self._finish(finish, trainable, other, metrics)
        return logs, (trainable, other, metrics)

    def _mapping(self, trainable, other):
        variables = self.trainable_variables + self.non_trainable_variables
        return list(zip(variables, [*trainable, *other], strict=True))

    def _finish(self, step, trainable, other, metrics):
        """Run the stateful end of a step; returns its logs, other variables and metric values."""
        mapping = self._mapping(trainable, other)
        mapping += zip(self.metrics_variables, metrics, strict=True)
        with keras.StatelessScope(mapping) as scope:
            logs = step()
        other = [scope.get_current_value(v) for v in self.non_trainable_variables]
        metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        return logs, other, metrics


def _on_host(array):
    """The rows of an array that this process holds."""
    if getattr(array, "is_fully_addressable", True):
        return array
    return np.concatenate([shard.data for shard in array.addressable_shards])
