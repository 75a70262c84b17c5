"""Show how far a training is: a bar in a terminal, lines everywhere else."""

from __future__ import annotations

import math
import sys
from datetime import timedelta
from typing import Any, Self

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

FIRST = ("v_error", "u_error")


class ShowProgress(keras.callbacks.Callback):
    """Shows steps, rate, remaining time, `v_error` and `u_error`, over several calls of `fit`.

    In a terminal it is a bar of the whole training. Elsewhere, such as in a pipe or a file, it is
    a line at the end of each `fit` epoch, with all numbers of the log and no control characters.
    It is a context too, which ends the bar.

    Args:
        steps: the step at which training ends.

    Example:
        >>> with ShowProgress(steps=300) as progress:
        ...     flow_map.fit(x, batch_size=30, epochs=300, callbacks=[progress], verbose=0)
    """

    async_safe = True  # `fit` does not wait for it

    def __init__(self, steps: int):
        super().__init__()
        console = Console(file=sys.stdout)
        self.in_terminal = sys.stdout.isatty() and not console.is_dumb_terminal
        columns = BarColumn(bar_width=10), _Numbers()  # with the numbers, 80 characters
        self._bar = Progress(*columns, console=console, disable=not self.in_terminal)
        self._task = self._bar.add_task("", total=steps, start=False, numbers="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Begin to count at the model's step."""
        task = self._bar.tasks[0]
        if not task.started:
            task.completed = self.model.batches_done
            self._bar.start_task(self._task)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Note the steps of a call: on JAX, other threads must not ask the model."""
        self._stride = self.model.steps_per_execution

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Move the bar; other threads may do so for other batches at the same time."""
        shown = ""
        if self.in_terminal:  # to read a number waits for the device
            shown = _text({name: value for name, value in (logs or {}).items() if name in FIRST})
        self._bar.update(self._task, advance=self._stride, numbers=shown)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Print a line, unless there is a bar."""
        self._bar.update(self._task, completed=self.model.batches_done)
        if not self.in_terminal:
            print(f"step {_place(self._bar.tasks[0])}  {_text(logs or {})}", flush=True)


class _Numbers(ProgressColumn):
    """What stands beside the bar."""

    def render(self, task: Task) -> Text:
        return Text(f"{_place(task)}  {task.fields['numbers']}", no_wrap=True)


def _place(task):
    """Steps, rate and remaining time."""
    speed, left = task.finished_speed or task.speed, task.time_remaining
    rate = "" if speed is None else f"  {speed:.3g} steps/s"
    left = None if left is None else timedelta(seconds=round(left))
    return f"{task.completed:.0f}/{task.total:.0f}{rate}" + (f"  {left} left" if left else "")


def _text(logs: dict[str, Any]) -> str:
    """The numbers that are finite, `FIRST` first."""
    names = sorted(logs, key=lambda name: (name not in FIRST, name == FIRST[-1]))
    numbers = ((name, float(logs[name])) for name in names)
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers if math.isfinite(value))
