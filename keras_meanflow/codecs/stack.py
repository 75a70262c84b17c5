"""Layers one after another, built without calling them: a large autoencoder is there at once."""

import keras


class Stack(keras.Model):
    """The composition of layers, over images of any height and width.

    `keras.Sequential` calls each layer symbolically when it is built, which takes JAX minutes for
    an autoencoder.

    Args:
        parts: the layers, each with `compute_output_shape`.
        channels: of the input.
    """

    def __init__(self, parts, channels: int, name=None):
        super().__init__(name=name)
        self.parts, self.channels = parts, channels
        shape = (None, None, None, channels)
        for layer in parts:
            layer.build(shape)
            layer.built = True
            shape = layer.compute_output_shape(shape)
        self.built = True

    def call(self, x):
        """(n, h, w, channels) through all layers."""
        for layer in self.parts:
            x = layer(x)
        return x
