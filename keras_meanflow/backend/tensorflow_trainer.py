"""TensorFlow: the train and test steps of a FlowMap, and the check of each batch before them."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_meanflow.backend.recording import recorded_gradients


def dense(gradients: Iterable[Any]) -> list[tf.Tensor | None]:
    """The gradients as whole tensors; None stays None.

    The gradient of an embedding has a slice for each row of the batch. Keras' optimizers square
    and clip each slice apart, as if no label came twice.
    """
    return [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def _dense_pairs(pairs):
    """Pairs of a gradient and its variable, with dense gradients."""
    gradients, variables = zip(*pairs, strict=True)
    return list(zip(dense(gradients), variables, strict=True))


class Trainer:
    """The steps of a FlowMap: build the problem without gradient, then call Keras' step on it."""

    def train_step(self, data: Any) -> dict:
        """One optimizer step."""
        problem = self.build_problem(data, training=True)
        with recorded_gradients(self.optimizer, "apply_gradients", 0, _dense_pairs) as pairs:
            super().train_step(problem.as_data())
        self.finish_train_step(problem, [gradient for gradient, _ in pairs])
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict:
        """One evaluation step, with the chosen average in the place of the weights."""
        with self.using_chosen_weights():
            problem = self.build_problem(data, training=False)
            super().test_step(problem.as_data())
        self.finish_test_step(problem)
        return self.test_logs()

    _checks_batches = False  # while `_make_function` runs

    def _make_function(self, step_function: Callable) -> Callable:
        """As in Keras; a refusal of a batch leaves the graph as the ValueError that it is."""
        self._checks_batches = True
        function = super()._make_function(step_function)
        self._checks_batches = False

        def call(iterator):
            self._untracked.refusal = None
            try:
                return function(iterator)
            except tf.errors.OpError:
                if self._untracked.refusal is None:
                    raise
                raise self._untracked.refusal from None

        return call

    def _autoconvert_optionals(self, step_func: Callable) -> Callable:
        """As in Keras: what runs for each batch outside XLA. Here training data are checked."""
        step = super()._autoconvert_optionals(step_func)
        if not self._checks_batches:  # Keras calls it for `predict` too
            return step

        def checked(data):
            checks = [self._check(part) for part in self._parts(data)]
            with tf.control_dependencies([check for check in checks if check is not None]):
                return step(data)

        return checked

    def _parts(self, data):
        """A batch's part of each replica."""
        locals_of = self.distribute_strategy.experimental_local_results
        count = self.distribute_strategy.num_replicas_in_sync
        if count == 1:
            return [data]
        take = [
            lambda leaf, i=i: leaf if leaf is None else locals_of(leaf)[i] for i in range(count)
        ]
        return [keras.tree.map_structure(one, data) for one in take]

    def _check(self, data):
        """Call `check_batch` on the host; in a graph, returns the operation that does so."""
        present = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
        # TensorFlow keeps this function for ever, so it refers to no tensor and no model.
        there = keras.tree.map_structure(lambda leaf: leaf is not None, data)
        model = weakref.ref(self)

        def check(*arrays):
            arrays = iter(arrays)
            try:
                model().check_batch(
                    keras.tree.map_structure(lambda given: next(arrays) if given else None, there)
                )
            except ValueError as error:
                model()._untracked.refusal = error
                raise

        return tf.numpy_function(check, present, []) if tf.inside_function() else check(*present)
