"""`FlowMap`: a network with an objective, a Keras model that trains with `fit` and generates.

Its parts are files: the steps of training, the averages of its weights, generation and export,
presets to share. The `Curriculum` callback moves values of the objective over training, and
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
