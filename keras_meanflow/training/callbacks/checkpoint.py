"""Checkpoints of the whole model, often enough."""

import time
from pathlib import Path

import keras
from keras import ops

from keras_meanflow.backend import local
from keras_meanflow.files.atomic import TEMPORARY, checkpoints, write_atomically
from keras_meanflow.training.callbacks.non_finite import NonFiniteError, first_non_finite, kept


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model as `step-00001234.keras`, at most `seconds` apart and at the end.

    A file appears complete or not at all. It starts early enough to be there in time, by the
    measured durations of a step and of saving; at least half of the time is left to training. A
    state that is not finite is never saved.

    Args:
        folder: where to; made if absent.
        seconds: the most work that a crash may cost.
        keep: how many of the newest checkpoints stay.

    Raises:
        NonFiniteError: for weights, averages or optimizer state that are not finite.

    Example:
        >>> flow_map.fit(x, callbacks=[Checkpoint("checkpoints")])
    """

    def __init__(self, folder, seconds=60.0, keep=2):
        super().__init__()
        self.folder, self.seconds, self.keep = Path(folder), seconds, keep

    def on_train_begin(self, logs=None):
        """Make the folder, remove what a crash left half-written, start the clock."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"{TEMPORARY}*"):
            leftover.unlink()
        self._last_begin = self._saved_at = self._free_at = time.monotonic()
        self._saving = self.seconds / 2  # until measured
        self._saved_step = self.model.batches_done

    def on_train_batch_begin(self, batch, logs=None):
        """Save if the next step would make it too late."""
        now = time.monotonic()
        step_time, self._last_begin = now - self._last_begin, now
        late = now + step_time + self._saving >= self._saved_at + self.seconds
        if late and now - self._free_at >= self._saving:
            self.save()
            self._last_begin = time.monotonic()

    def on_train_end(self, logs=None):
        """Save."""
        self.save()

    def save(self):
        """Save now, unless the step is saved already or the logs are not finite."""
        started = time.monotonic()
        model = self.model  # on JAX this brings the state back from the training loop
        step = model.batches_done
        if step == self._saved_step or first_non_finite(model.get_metrics_result()):
            return
        self._check_finite(model, step)
        write_atomically(self.folder / f"step-{step:08d}.keras", model.save)
        for old in checkpoints(self.folder)[: -self.keep]:
            old.unlink()
        self._saved_step, self._saved_at, self._free_at = step, started, time.monotonic()
        self._saving = self._free_at - started

    def _check_finite(self, model, step):
        for variable in model.variables + model.optimizer.variables:
            floating = keras.backend.is_float_dtype(variable.dtype)
            if floating and not bool(ops.all(ops.isfinite(local(variable.value)))):
                raise NonFiniteError(
                    f"{variable.path} is not finite after {step} steps. {kept(self.folder)}"
                    "Lower the learning rate or clip the gradient."
                )
