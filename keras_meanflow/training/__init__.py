"""A run: a directory in which one training happens, stops, goes on, and leaves its results.

A recipe makes a `Training`: a compiled FlowMap, its data, and how long to train. `train` carries
it out in a directory, and `load` gives back the model of one.
"""

from keras_meanflow.training.run import (
    describe,
    load,
    restore,
    train,
    trained_network,
)
from keras_meanflow.training.training import (
    Training,
)

__all__ = [
    "Training",
    "describe",
    "load",
    "restore",
    "train",
    "trained_network",
]
