"""How good samples are: a protocol says how they are measured, and a report holds the numbers.

A number is valid only under its protocol: features and their checksum, resize, rounding, number of
samples, labels, reference. Numbers of two protocols are never compared. `Evaluation` draws and
measures samples of a model; the callback `Evaluate` does so during training.
"""

from keras_meanflow.evaluation.callback import Evaluate
from keras_meanflow.evaluation.judge import evaluate_images, make_reference, self_check
from keras_meanflow.evaluation.protocols import Protocol
from keras_meanflow.evaluation.samples import Evaluation, open_reference

__all__ = [
    "Evaluate",
    "Evaluation",
    "Protocol",
    "evaluate_images",
    "make_reference",
    "open_reference",
    "self_check",
]
