"""The stop at a value that is not finite."""

import math

import keras

from keras_meanflow.files.atomic import latest_checkpoint

# In the order in which they break: the derivative first, then errors, gradient, loss.
WATCHED = ("du_dt_norm", "u_error", "v_error", "gradient_norm", "loss")


class NonFiniteError(ArithmeticError):
    """Training met a value that is not finite; the message names the step and the quantity."""


def first_non_finite(logs):
    """The name of the first quantity of `logs` that is not finite, `WATCHED` first; or None."""
    names = [name for name in WATCHED if name in logs]
    names += [name for name in logs if name not in WATCHED]
    return next((name for name in names if not math.isfinite(float(logs[name]))), None)


class StopOnNonFinite(keras.callbacks.Callback):
    """Stops training at the first step whose logs are not finite.

    The logs are running means, so what once was not finite stays so to the end of the epoch. They
    are read in a thread where Keras can (JAX and PyTorch), so that the device is not waited for;
    the stop then comes a few steps late and still names the right one.

    Args:
        folder: of the checkpoints, to say which is kept.

    Raises:
        NonFiniteError: naming `FlowMap.step` at that batch, and the quantity.

    Example:
        >>> flow_map.fit(x, callbacks=[StopOnNonFinite()])
    """

    async_safe = True

    def __init__(self, folder=None):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        """Note the step at which the epoch starts."""
        self._first, self._stride = self.model.batches_done, self.model.steps_per_execution
        self._running, self._broken = set(), {}

    def on_train_batch_begin(self, batch, logs=None):
        """Stop if an earlier batch has been found not to be finite."""
        self._stop_if_broken()
        self._running.add(batch)

    def on_train_batch_end(self, batch, logs=None):
        """Look at the logs of a batch; other batches may be looked at meanwhile."""
        name = first_non_finite(logs)
        if name is not None:
            self._broken[batch] = (name, logs[name])
        self._running.discard(batch - self._stride + 1)

    def on_epoch_end(self, epoch, logs=None):
        """Stop if any batch was not finite: all have been looked at."""
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


def kept(folder):
    """Which checkpoint a run that broke can go on from, in a sentence."""
    if folder is None:
        return ""
    newest = latest_checkpoint(folder)
    return "There is no checkpoint yet. " if newest is None else f"Kept: {newest}. "
