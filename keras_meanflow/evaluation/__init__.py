"""How good samples are: a protocol says how they are measured, a judge measures, a report tells.

A number comes with its protocol: features and their checksum, resize, rounding, count, labels,
reference. Numbers of two protocols do not mix. `Evaluation` draws the samples of a model.
"""

from keras_meanflow.evaluation.judge import (
    evaluate_images,
    make_reference,
    self_check,
)
from keras_meanflow.evaluation.protocols import (
    Protocol,
)
from keras_meanflow.evaluation.samples import (
    Evaluation,
    open_reference,
)

__all__ = [
    "Evaluation",
    "Protocol",
    "evaluate_images",
    "make_reference",
    "open_reference",
    "self_check",
]
