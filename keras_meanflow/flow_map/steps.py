"""One step of a FlowMap: the problem, its loss, what is logged, and the updates after it."""

import threading
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor, first_row, global_norm, local, replica_sum
from keras_meanflow.backend.random import Keys
from keras_meanflow.flow_map.checks import check_types, check_values, is_placeholder, row_weights
from keras_meanflow.objectives import Problem

_EVALUATION_SEED = 0x5EED


class Steps:
    """What the train and test steps of a backend's `Trainer` call, in the order of a step."""

    @property
    def batches_done(self) -> int:
        """`step` as a Python integer; it waits for the device."""
        return int(ops.convert_to_numpy(local(self.step.value)))

    @property
    def accumulation(self) -> int:
        """Batches for one optimizer step."""
        optimizer = getattr(self, "optimizer", None)
        return getattr(optimizer, "gradient_accumulation_steps", None) or 1

    @property
    def progress(self) -> Tensor:
        """Training progress p in [0, 1], float32; 1 before any horizon is known."""
        done = ops.cast(self.step.value // self.accumulation - self.start.value, "float32")
        horizon = ops.cast(self.horizon.value, "float32")
        p = ops.clip(done / ops.maximum(horizon, 1.0), 0.0, 1.0)
        return ops.where(horizon > 0.0, p, 1.0)

    def build_problem(self, data: Any, *, training: bool) -> Problem:
        """The regression problem of a batch; called by the train and test steps."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, y, sample_weight = keras.tree.map_structure(
            lambda a: a if a is None else ops.convert_to_tensor(a), (x, y, sample_weight)
        )
        y = None if is_placeholder(y) else y
        check_types(self.network, x, y)
        x = keras.tree.map_structure(lambda a: ops.cast(a, "float32"), x)
        rows = ops.shape(next(iter(keras.tree.flatten(x))))[0]
        keys = self.keys(rows, training=training)
        y = self.network.training_condition(y, keys, rows) if training else y
        if sample_weight is not None:
            sample_weight = row_weights(sample_weight, rows)
        draws = self.objective.draw(keys, x, y)
        # One pass for u and du/dt would also differentiate dropout and the statistics of batches.
        one_pass = training and not self.network.differs_in_training
        make = self.objective.training_problem if one_pass else self.objective
        return make(self.field, x, y, draws).weighted(sample_weight)

    def check_batch(self, data: Any) -> None:
        """Raise a ValueError for a batch that cannot be trained on.

        A backend's `Trainer` calls it before each step, where the values are at hand.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        y = None if is_placeholder(y) else y
        check_types(self.network, x, y)
        first, self._untracked.looked = not self._untracked.looked, True
        check_values(self.network, x, y, pixels=first)

    def keys(self, rows: int, *, training: bool = True) -> Keys:
        """The draws of the present step for a replica's batch of `rows`."""
        if training:
            state = {name: variable.value for name, variable in self.state.items()}
            return Keys(self.seed, self.step.value, first_row(rows), self.progress, state)
        last = self.objective.final_state
        return Keys(_EVALUATION_SEED, self.evaluation_step.value, first_row(rows), 1.0, last)

    def compute_loss(
        self,
        x: dict,
        y: dict,
        y_pred: Any,
        sample_weight: Tensor | None,
        training: bool = True,
    ) -> Tensor:
        """The objective's loss of a problem, plus the losses that layers add."""
        del training
        loss = self.objective.loss_of(
            Problem.of_data(x, y), y_pred, layer=self.log_variance, sample_weight=sample_weight
        )
        return loss + sum(self._aggregate_additional_loss(extra) for extra in self.losses)

    def compute_metrics(
        self, x: dict, y: dict, y_pred: Any, sample_weight: Tensor | None = None
    ) -> dict[str, Any]:
        """Track the unnormalised squared errors on and off the diagonal."""
        errors = Problem.of_data(x, y).errors(y_pred)
        self._log(errors)
        # TensorFlow runs the step of each replica in another thread.
        self._untracked.errors[threading.get_ident()] = errors
        return self.get_metrics_result()

    def finish_train_step(self, problem: Problem, gradients: Sequence[Tensor]) -> None:
        """After the optimizer: logs, averages, the objective's state, and the count of batches."""
        self._trackers["gradient_norm"].update_state(global_norm(gradients))
        self._log(problem.logs | problem.weight_shares())
        # Only the last batch of an accumulation moves the weights, and then the averages.
        updates = self.step.value // self.accumulation
        moved = ops.equal((self.step.value + 1) % self.accumulation, 0)
        self._averages.update(updates, moved)
        self._update_state(self._untracked.errors.pop(threading.get_ident()))
        self.step.assign(self.step.value + 1)

    def _update_state(self, errors):
        """Let the objective update its state from this step's errors on all replicas."""
        state = self.state
        if not state:
            return
        sums = {
            name: (replica_sum(ops.sum(error * weight)), replica_sum(ops.sum(weight)))
            for name, (error, weight) in errors.items()
            if weight is not None
        }
        now = {name: variable.value for name, variable in state.items()}
        for name, value in self.objective.update_state(now, sums).items():
            state[name].assign(ops.cast(value, state[name].dtype))

    def finish_test_step(self, problem: Problem) -> None:
        """After an evaluation batch: logs and the count of evaluation batches."""
        self._untracked.errors.pop(threading.get_ident())
        self._log(problem.logs | problem.weight_shares())
        self.evaluation_step.assign(self.evaluation_step.value + 1)

    def test_logs(self) -> dict[str, Any]:
        """The metrics of an evaluation."""
        return {k: v for k, v in self.get_metrics_result().items() if k != "gradient_norm"}

    def _log(self, quantities):
        for name, (values, weights) in quantities.items():
            if name in self._trackers:
                self._trackers[name].update_state(values, sample_weight=weights)

    def reset_metrics(self) -> None:
        """Reset the metrics and the count of evaluation batches."""
        super().reset_metrics()
        self.evaluation_step.assign(0)
