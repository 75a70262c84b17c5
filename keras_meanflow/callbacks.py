"""What happens beside the steps of `fit`: checkpoints, logs, pictures, and the stop at a NaN."""

import csv
import math
import os
import time
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_meanflow.pictures import curves, draw_samples

# In the order in which they break: the derivative first, then errors, gradient, loss.
WATCHED = ("du_dt_norm", "u_error", "v_error", "gradient_norm", "loss")
_TEMPORARY = "tmp-"


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
        self._first, self._stride = int(self.model.step.value), self.model.steps_per_execution
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
            f"{name} is {value} at step {self._first + batch}. {_kept(self.folder)}"
            "Lower the learning rate, clip the gradient, or look at that batch."
        )


def _kept(folder):
    if folder is None:
        return ""
    newest = latest_checkpoint(folder)
    return "There is no checkpoint yet. " if newest is None else f"Kept: {newest}. "


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
        for leftover in self.folder.glob(f"{_TEMPORARY}*"):
            leftover.unlink()
        self._last_begin = self._saved_at = self._free_at = time.monotonic()
        self._saving = self.seconds / 2  # until measured
        self._saved_step = int(self.model.step.value)

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
        step = int(model.step.value)
        if step == self._saved_step or first_non_finite(model.get_metrics_result()):
            return
        self._check_finite(model, step)
        write_atomically(self.folder / f"step-{step:08d}.keras", model.save)
        for old in _checkpoints(self.folder)[: -self.keep]:
            old.unlink()
        self._saved_step, self._saved_at, self._free_at = step, started, time.monotonic()
        self._saving = self._free_at - started

    def _check_finite(self, model, step):
        for variable in model.variables + model.optimizer.variables:
            floating = keras.backend.is_float_dtype(variable.dtype)
            if floating and not bool(ops.all(ops.isfinite(variable.value))):
                raise NonFiniteError(
                    f"{variable.path} is not finite after {step} steps. {_kept(self.folder)}"
                    "Lower the learning rate or clip the gradient."
                )


def latest_checkpoint(folder):
    """The path of the newest checkpoint in a folder, or None."""
    return next(reversed(_checkpoints(folder)), None)


def _checkpoints(folder):
    return sorted(Path(folder).glob("step-*.keras"))


def write_atomically(path, write):
    """Let `write(path)` write a file that appears complete or not at all, whatever happens."""
    temporary = path.with_name(_TEMPORARY + path.name)
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


class SampleGrid(keras.callbacks.Callback):
    """Draws one-step samples from the averaged weights as training goes, and at its end.

    Writes `samples/step-00001000.png` and so on in a folder, the newest also as `samples.png`.

    Args:
        folder: where to.
        labels: what `FlowMap.generate` takes: labels, or a number of samples.
        every_steps: steps between two pictures, or None for one at the end only.
        seed: of the noise, the same for all pictures.
        columns: of the grid.
        reference: data to draw behind points (n, 2).

    Example:
        >>> flow_map.fit(x, y, callbacks=[SampleGrid("run", np.repeat(np.arange(10), 8))])
    """

    def __init__(self, folder, labels, *, every_steps=1000, seed=0, columns=None, reference=None):
        super().__init__()
        self.folder, self.labels, self.every_steps = Path(folder), labels, every_steps
        self.seed, self.columns, self.reference = seed, columns, reference

    def on_train_begin(self, logs=None):
        """Note the step at which this `fit` starts."""
        self._drawn = int(self.model.step.value)

    def on_epoch_begin(self, epoch, logs=None):
        """Note the step at which the epoch starts."""
        self._first = int(self.model.step.value)

    def on_train_batch_begin(self, batch, logs=None):
        """Draw if the picture is due."""
        every, step = self.every_steps, self._first + batch
        if every is not None and step // every > self._drawn // every:
            self.draw(step)

    def on_train_end(self, logs=None):
        """Draw."""
        step = int(self.model.step.value)
        if step != self._drawn:
            self.draw(step)

    def draw(self, step):
        """Draw now."""
        samples = self.model.generate(self.labels, seed=self.seed, verbose=0)
        picture = draw_samples(samples, self.reference, columns=self.columns)
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        for name in (f"samples/step-{step:08d}.png", "samples.png"):
            write_atomically(self.folder / name, picture.save)
        self._drawn = step


class Log(keras.callbacks.CSVLogger):
    """Keras' CSV log, with the columns `step` (batches so far) and `seconds` (of training).

    A run that goes on from an earlier step first drops the rows after it.

    Args:
        filename: of the CSV file.
    """

    def __init__(self, filename):
        super().__init__(filename, append=True)

    def on_train_begin(self, logs=None):
        """Drop the rows of steps that will be done again."""
        step = int(self.model.step.value)
        rows = [row for row in read_log(self.filename) if row["step"] <= step]
        self._before = rows[-1]["seconds"] if rows else 0.0
        self._started = time.monotonic()
        if Path(self.filename).exists():
            write_atomically(Path(self.filename), lambda path: _write_rows(path, rows))
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        """Write a row."""
        seconds = self._before + time.monotonic() - self._started
        row = {"step": int(self.model.step.value), **(logs or {}), "seconds": round(seconds, 2)}
        # Set, because Keras 3.15 otherwise adds an empty val_ column for each.
        self.keys = self.keys or list(row)
        super().on_epoch_end(epoch, row)


def _write_rows(path, rows):
    with open(path, "w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_log(filename):
    """The complete rows of a `Log` as dicts of numbers; none if there is no such file."""
    if not Path(filename).exists():
        return []
    with open(filename, newline="") as file:
        rows = list(csv.DictReader(file))
    whole = (row for row in rows if None not in row and all(row.values()))
    return [{name: _number(value) for name, value in row.items()} for row in whole]


def _number(text):
    return int(text) if text.lstrip("-").isdigit() else float(text)


class Curve(keras.callbacks.Callback):
    """Draws the curves of a `Log` after every epoch; it comes after the `Log`.

    Args:
        log: the CSV file.
        picture: the PNG file.
    """

    def __init__(self, log, picture):
        super().__init__()
        self.log, self.picture = log, Path(picture)

    def on_epoch_end(self, epoch, logs=None):
        """Draw."""
        draw_curve(self.log, self.picture)


def draw_curve(log, picture):
    """The picture of a `Log`: a panel for each quantity over the step."""
    rows = read_log(log)
    names = [name for name in ("loss", *reversed(WATCHED[:-1])) if name in rows[0]]
    others = set(rows[0]) - {"epoch", "step", "seconds", *names}
    lines = {name: [row[name] for row in rows] for name in [*names, *sorted(others)]}
    steps = np.array([row["step"] for row in rows])
    write_atomically(picture, curves(steps, lines).save)
