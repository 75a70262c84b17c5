"""A run: a directory in which one training happens, stops, goes on, and leaves its results.

A `Task` is data, a network, an optimizer and a budget; a `Method` is an objective and what else one
paper changes. `Plan` finds both by name and puts them together into a `Training`, which `train`
carries out in a directory; `keras_meanflow.open_model` opens what it leaves.
"""

import importlib

# Imported when asked for: a `Plan` is made before a backend is chosen, hence without Keras.
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


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
