"""The log of a training as a CSV file, and the picture of its curves."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

import keras
import numpy as np

from keras_meanflow.files.atomic import write_atomically, writing
from keras_meanflow.pictures.charts import curves
from keras_meanflow.training.callbacks.non_finite import WATCHED


class Log(keras.callbacks.CSVLogger):
    """Keras' CSV log, with the columns `step`, `row_steps` and `seconds`.

    They hold the batches so far, the batches that the row's means cover, and the time of training.
    A row covers fewer batches where training was stopped in the middle of an epoch.

    A run that continues from an earlier step first drops the rows after that step. A column that
    not all rows have is NaN in the others.

    Args:
        filename: the CSV file.
    """

    def __init__(self, filename: str | Path):
        super().__init__(filename, append=True)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Drop the rows of steps that will be repeated."""
        step = self.model.batches_done
        rows = [row for row in read_log(self.filename) if row["step"] <= step]
        self._before = rows[-1]["seconds"] if rows else 0.0
        self._started = time.monotonic()
        if Path(self.filename).exists():
            write_atomically(Path(self.filename), lambda path: _write_rows(path, rows))
        super().on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Note the step at which the row begins."""
        self._first = self.model.batches_done

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Write a row."""
        seconds, step = self._before + time.monotonic() - self._started, self.model.batches_done
        counts = {"step": step, "row_steps": step - self._first}
        row = {**counts, **(logs or {}), "seconds": round(seconds, 2)}
        # Keras 3.15 adds an empty val_ column for each key, unless `keys` is set.
        self.keys = self.keys or self._columns(list(row))
        with writing(self.filename):
            super().on_epoch_end(epoch, {**dict.fromkeys(self.keys, math.nan), **row})

    def _columns(self, new):
        """The columns of the file without `epoch`; the file is rewritten if `new` has more."""
        rows = read_log(self.filename)
        old = list(rows[0])[1:] if rows else new
        if set(new) <= set(old):
            return old
        columns = [*new, *(name for name in old if name not in new)]
        empty = dict.fromkeys(["epoch", *columns], math.nan)
        self.csv_file.close()
        write_atomically(
            Path(self.filename), lambda path: _write_rows(path, [{**empty, **row} for row in rows])
        )
        self.csv_file = open(self.filename, "a", newline="")
        return columns


def _write_rows(path, rows):
    with open(path, "w", newline="") as file:
        if rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def read_log(filename: str | Path) -> list[dict[str, float]]:
    """The complete rows of a `Log` as dicts of numbers; an empty list if there is no such file."""
    if not Path(filename).exists():
        return []
    with open(filename, newline="") as file:
        rows = list(csv.DictReader(file))
    whole = (row for row in rows if None not in row and all(row.values()))
    return [{name: _number(value) for name, value in row.items()} for row in whole]


def _number(text):
    return int(text) if text.lstrip("-").isdigit() else float(text)


class Curve(keras.callbacks.Callback):
    """Draws the curves of a `Log` after every epoch; place it after the `Log`.

    Args:
        log: the CSV file.
        picture: the PNG file.
    """

    def __init__(self, log: str | Path, picture: str | Path):
        super().__init__()
        self.log, self.picture = log, Path(picture)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Draw."""
        draw_curve(self.log, self.picture)


def draw_curve(log: str | Path, picture: str | Path) -> None:
    """Draw a `Log`: a panel for each quantity over the step."""
    rows = read_log(log)
    names = [name for name in ("loss", *reversed(WATCHED[:-1])) if name in rows[0]]
    others = set(rows[0]) - {"epoch", "step", "row_steps", "seconds", *names}
    lines = {name: [row[name] for row in rows] for name in [*names, *sorted(others)]}
    steps = np.array([row["step"] for row in rows])
    write_atomically(picture, curves(steps, lines).save)
