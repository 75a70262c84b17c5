"""Checkpoints of the whole model, at a given interval of time."""

import time
from pathlib import Path

import keras
from keras import ops

from keras_meanflow.backend import local
from keras_meanflow.files.atomic import TEMPORARY, checkpoints, write_atomically
from keras_meanflow.training.callbacks.non_finite import NonFiniteError, first_non_finite, kept


class Checkpoint(keras.callbacks.Callback):
    """Saves the whole model as `step-00001234.keras`, at most `seconds` apart and at the end.

    An interrupted save leaves no file. Saving starts early enough to end in time: the durations of
    a step and of a save are measured. At least half of the time is left for training. A state that
    is not finite is never saved.

    Args:
        folder: where to save; created if it does not exist.
        seconds: the training time that a crash may lose at most.
        keep: how many of the newest checkpoints to keep.

    Raises:
        NonFiniteError: for weights, averages or optimizer state that are not finite.

    Example:
        >>> flow_map.fit(x, callbacks=[Checkpoint("checkpoints")])
    """

    def __init__(self, folder: str | Path, seconds: float = 60.0, keep: int = 2):
        super().__init__()
        self.folder, self.seconds, self.keep = Path(folder), seconds, keep

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Create the folder, remove incomplete files of a crash, start the clock.

        A checkpoint of a later step was not loaded, since it is damaged: it is renamed.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(f"{TEMPORARY}*"):
            leftover.unlink()
        for unused in checkpoints(self.folder):
            if unused.name > self._name(self.model.batches_done):
                unused.rename(unused.with_name(f"damaged-{unused.name}"))
        self._last_begin = self._saved_at = self._free_at = time.monotonic()
        self._saving = self.seconds / 2  # until measured
        self._saved_step = self.model.batches_done

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Save if it would be too late after the next step."""
        now = time.monotonic()
        step_time, self._last_begin = now - self._last_begin, now
        late = now + step_time + self._saving >= self._saved_at + self.seconds
        if late and now - self._free_at >= self._saving:
            self.save()
            self._last_begin = time.monotonic()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Save."""
        self.save()

    def save(self) -> None:
        """Save now, unless this step is saved already or the logs are not finite."""
        started = time.monotonic()
        model = self.model  # on JAX this copies the state out of the training loop
        step = model.batches_done
        if step == self._saved_step or first_non_finite(model.get_metrics_result()):
            return
        self._check_finite(model, step)
        write_atomically(self.folder / self._name(step), model.save)
        for old in checkpoints(self.folder)[: -self.keep]:
            old.unlink()
        self._saved_step, self._saved_at, self._free_at = step, started, time.monotonic()
        self._saving = self._free_at - started

    def _name(self, step):
        return f"step-{step:08d}.keras"

    def _check_finite(self, model, step):
        for variable in model.variables + model.optimizer.variables:
            floating = keras.backend.is_float_dtype(variable.dtype)
            if floating and not bool(ops.all(ops.isfinite(local(variable.value)))):
                raise NonFiniteError(
                    f"{variable.path} is not finite after {step} steps. {kept(self.folder)}"
                    "Lower the learning rate or clip the gradient."
                )
