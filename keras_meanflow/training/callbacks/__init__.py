"""Callbacks for `fit`: checkpoints, logs, pictures, evaluation, and a stop at NaN."""

from keras_meanflow.evaluation import Evaluate
from keras_meanflow.files.atomic import latest_checkpoint, write_atomically
from keras_meanflow.training.callbacks.checkpoint import Checkpoint
from keras_meanflow.training.callbacks.log import Curve, Log, draw_curve, read_log
from keras_meanflow.training.callbacks.non_finite import (
    NonFiniteError,
    StopOnNonFinite,
    first_non_finite,
)
from keras_meanflow.training.callbacks.progress import ShowProgress
from keras_meanflow.training.callbacks.samples import SampleGrid
from keras_meanflow.training.callbacks.stopping import StopOnSignal, Stopped

__all__ = [
    "Checkpoint",
    "Curve",
    "Evaluate",
    "Log",
    "NonFiniteError",
    "SampleGrid",
    "ShowProgress",
    "StopOnNonFinite",
    "StopOnSignal",
    "Stopped",
    "draw_curve",
    "first_non_finite",
    "latest_checkpoint",
    "read_log",
    "write_atomically",
]
