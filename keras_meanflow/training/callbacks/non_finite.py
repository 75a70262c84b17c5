"""Stop training at a value that is not finite."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras

from keras_meanflow.files.atomic import latest_checkpoint

# In the order in which they become infinite or NaN.
WATCHED = ("du_dt_norm", "u_error", "v_error", "gradient_norm", "loss")


class NonFiniteError(ArithmeticError):
    """A value in training is not finite; the message names the step and the quantity."""


def first_non_finite(logs: dict[str, Any]) -> str | None:
    """The first quantity of `logs` that is not finite, or None; those of `WATCHED` come first."""
    names = [name for name in WATCHED if name in logs]
    names += [name for name in logs if name not in WATCHED]
    return next((name for name in names if not math.isfinite(float(logs[name]))), None)


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops training at the first step whose logs are not finite.

    The logs are running means: a value that is not finite stays in them to the end of the epoch.
    Where Keras can (JAX and PyTorch), they are read in a thread, so that training does not wait for
    the device. The stop then comes a few steps late, but names the right step.

    Args:
        folder: the folder of the checkpoints; the message names the newest one.

    Raises:
        NonFiniteError: names `FlowMap.step` at that batch, and the quantity.

    Example:
        >>> flow_map.fit(x, callbacks=[StopOnNonFinite()])
    """

    async_safe = True

    def __init__(self, folder: str | Path | None = None):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Note the step at which the epoch starts."""
        self._first, self._stride = self.model.batches_done, self.model.steps_per_execution
        self._running, self._broken = set(), {}

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Stop if the logs of an earlier batch are not finite."""
        self._stop_if_broken()
        self._running.add(batch)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Check the logs of a batch; other threads may check other batches at the same time."""
        name = first_non_finite(logs)
        if name is not None:
            self._broken[batch] = (name, logs[name])
        self._running.discard(batch - self._stride + 1)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Stop if any batch was not finite; all have been checked now."""
        self._stop_if_broken()

    def _stop_if_broken(self):
        if not self._broken or min(self._broken) > min(self._running, default=math.inf):
            return
        batch = min(self._broken)
        name, value = self._broken[batch]
        raise NonFiniteError(
            f"{name} is {value} at step {self._first + batch}. {kept(self.folder)}"
            "Lower the learning rate, clip the gradient, or look at that batch."
        )


def kept(folder: str | Path | None) -> str:
    """A sentence: the checkpoint from which a failed run can resume."""
    if folder is None:
        return ""
    newest = latest_checkpoint(folder)
    return "There is no checkpoint yet. " if newest is None else f"Kept: {newest}. "
