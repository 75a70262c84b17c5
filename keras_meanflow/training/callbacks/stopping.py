"""Stop at a signal without losing a step."""

from __future__ import annotations

import os
import signal
import threading
from typing import Self

import keras

from keras_meanflow.training.callbacks.checkpoint import Checkpoint
from keras_meanflow.training.callbacks.non_finite import kept

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal has stopped the training after a whole step; the message says what is saved.

    `code` is the exit code of a process that ends because of it: 128 and the signal's number.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.code = 128 + number


class StopOnSignal(keras.callbacks.Callback):
    """At SIGTERM or SIGINT, finishes the step, saves, and raises `Stopped`.

    It is a context too, in which it listens to the signals. The second signal does what signals
    did before. Of several processes the first one saves and stops; the others only listen, so that
    the first one can finish its step.

    Args:
        checkpoint: saves the model.

    Example:
        >>> with StopOnSignal(checkpoint) as stop:
        ...     flow_map.fit(x, callbacks=[checkpoint, stop])
    """

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.checkpoint, self.received, self._before = checkpoint, None, {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _receive(self, number, frame):
        self.received = number
        self.__exit__()
        name = signal.Signals(number).name
        text = f"\n{name}: finishing the step, then saving. A second signal stops at once.\n"
        os.write(2, text.encode())  # a print may be interrupted by this very signal

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Save and stop if a signal has come."""
        if self.received is None:
            return
        self.checkpoint.save()
        name, step = signal.Signals(self.received).name, self.model.batches_done
        raise Stopped(
            f"Stopped by {name} after {step} steps. {kept(self.checkpoint.folder)}"
            "The same command goes on from there.",
            self.received,
        )
