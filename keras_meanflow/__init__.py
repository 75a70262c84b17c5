"""MeanFlow-family generative models for Keras 3: one network, one step, three backends."""

__version__ = "0.1.0"
