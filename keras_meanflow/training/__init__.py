"""Train a task by a method, in a directory: the run.

A `Task` is data, a network, an optimizer and a budget. A `Method` is the objective of one paper,
and what else the paper changes. A `Plan` finds both by name and combines them into a `Training`.
`train` runs it in a directory and can resume it; `keras_meanflow.open_model` opens the result.
"""

import importlib
from typing import Any

# Imported on first use: a `Plan` is made before the backend is chosen, so without Keras.
_NAMES = {
    "Method": "method",
    "Plan": "plan",
    "Task": "task",
    "Training": "training",
    "compose": "method",
    "describe": "run",
    "restore": "run",
    "train": "run",
}
__all__ = [*_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
