"""`FlowMap`: a network with an objective, a Keras model that trains with `fit` and generates.

Its parts are files: the averages of its weights, generation and export, presets to share, and the
`Curriculum` callback that moves values of the objective over training.
"""

from keras_meanflow.flow_map.curriculum import (
    Curriculum,
    improved_training,
)
from keras_meanflow.flow_map.model import (
    FlowMap,
)

__all__ = [
    "Curriculum",
    "FlowMap",
    "improved_training",
]
