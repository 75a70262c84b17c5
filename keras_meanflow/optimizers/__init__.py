"""Optimizers for any Keras model, and the choice that recipes offer."""

from keras_meanflow.optimizers.choice import compile_with, warmed_up
from keras_meanflow.optimizers.splus import SPlus, splus_rate

__all__ = ["SPlus", "compile_with", "splus_rate", "warmed_up"]
