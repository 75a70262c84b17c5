"""Layers one after another, built without calling them, so that building is fast."""

from collections.abc import Sequence
from typing import Any

import keras


class Stack(keras.Model):
    """The composition of layers, over images of any height and width.

    `keras.Sequential` calls each layer symbolically when it is built. For an autoencoder this takes
    minutes on JAX.

    Args:
        parts: the layers, each with `compute_output_shape`.
        channels: channels of the input.
    """

    def __init__(self, parts: Sequence[keras.Layer], channels: int, name: str | None = None):
        super().__init__(name=name)
        self.parts, self.channels = parts, channels
        shape = (None, None, None, channels)
        for layer in parts:
            layer.build(shape)
            layer.built = True
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        """(n, h, w, channels) through all layers."""
        for layer in self.parts:
            x = layer(x)
        return x
