"""Optimizers for any Keras model, and the choice among them in recipes."""

from keras_meanflow.optimizers.adam import Adam
from keras_meanflow.optimizers.choice import compile_with, warmed_up
from keras_meanflow.optimizers.splus import SPlus, splus_rate

__all__ = ["Adam", "SPlus", "compile_with", "splus_rate", "warmed_up"]
