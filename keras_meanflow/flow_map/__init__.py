"""`FlowMap`: a network with an objective, a Keras model that trains with `fit` and generates.

Each of its parts is a file: the steps of training, the averages of weights, generation and export,
presets to share. The `Curriculum` callback changes values of the objective during training.
`open_model` gives the FlowMap of any name: a run, a preset, a checkpoint, a file of weights.
"""

from keras_meanflow.flow_map.curriculum import Curriculum, improved_training
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.flow_map.opening import Opened, open_model
from keras_meanflow.flow_map.places import place_of

__all__ = [
    "Curriculum",
    "FlowMap",
    "Opened",
    "improved_training",
    "open_model",
    "place_of",
]
