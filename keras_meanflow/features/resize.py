"""Resizing with exactly the results of published protocols."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

register = keras.saving.register_keras_serializable("keras_meanflow")


class Resample(keras.layers.Layer):
    """Resizes (B, H, W, C) images to (B, size, size, C): weighted sums of rows, then of columns.

    A subclass defines the filter in `taps`.

    Args:
        size: The new height and width in pixels.
    """

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(trainable=False, **kwargs)
        self.size = size

    def taps(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The source pixels of each new pixel, and their weights: two arrays (size, taps)."""
        raise NotImplementedError

    def call(self, images: Any) -> Any:
        for axis in (2, 1):
            indices, weights = self.taps(images.shape[axis])
            shape = [1, 1, 1, 1]
            shape[axis] = self.size
            images = sum(
                ops.take(images, indices[:, k], axis=axis)
                * ops.convert_to_tensor(weights[:, k].reshape(shape), images.dtype)
                for k in range(indices.shape[1])
            )
        return images

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size}


@register
class LegacyBilinear(Resample):
    """The bilinear resize of TensorFlow 1, used in the definition of FID: no half-pixel shift.

    New pixel i is at position `i * length / size`, in float32, between two source pixels. There is
    no antialiasing. Another resize changes FID by whole points.

    Example:
        >>> LegacyBilinear(4)(np.arange(8.0).reshape(1, 2, 4, 1)).shape
        (1, 4, 4, 1)

    References:
        Parmar et al., On Aliased Resizing and Surprising Subtleties in GAN Evaluation, 2022.
    """

    def taps(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        position = np.arange(self.size, dtype=np.float32) * np.float32(length / self.size)
        low = position.astype(np.int32)
        share = position - low
        indices = np.stack([low, np.minimum(low + 1, length - 1)], axis=1)
        return indices, np.stack([1 - share, share], axis=1)


@register
class Bicubic(Resample):
    """The antialiased bicubic resize of Pillow and PyTorch.

    Keys' kernel with a = -1/2. It is stretched by `length / size` if that exceeds 1, and normalised
    at the borders.

    Example:
        >>> Bicubic(4)(np.ones((1, 8, 8, 3))).shape
        (1, 4, 4, 3)
    """

    def taps(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        scale = length / self.size
        stretch = max(scale, 1.0)
        reach = 2.0 * stretch
        centre = (np.arange(self.size) + 0.5) * scale
        first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
        stop = np.minimum((centre + reach + 0.5).astype(np.int64), length)
        indices = first[:, None] + np.arange((stop - first).max())
        weights = cubic((indices + 0.5 - centre[:, None]) / stretch, a=-0.5)
        weights = np.where(indices < stop[:, None], weights, 0.0)
        weights /= weights.sum(axis=1, keepdims=True)
        return np.minimum(indices, length - 1).astype(np.int32), weights.astype(np.float32)


@register
class TorchBicubic(Resample):
    """The bicubic resize of PyTorch's `interpolate` without antialiasing: four pixels, a = -3/4."""

    def taps(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        position = (np.arange(self.size) + 0.5) * (length / self.size) - 0.5
        indices = np.floor(position).astype(np.int64)[:, None] + np.arange(-1, 3)
        weights = cubic(indices - position[:, None], a=-0.75).astype(np.float32)
        return np.clip(indices, 0, length - 1).astype(np.int32), weights


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel at distance x, in pixels.

    Args:
        x: Distances.
        a: Slope at 1: -1/2 in Pillow, -3/4 in PyTorch without antialiasing.

    Example:
        >>> cubic(np.array([0.0, 1.0, 2.0]), a=-0.5)
        array([ 1., -0., -0.])

    References:
        Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981.
    """
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def resize_of(text: str) -> Resample | None:
    """The resize of a name in a protocol: "Bicubic 28", "LegacyBilinear 299"; None for "none".

    Raises:
        ValueError: For any other text.
    """
    kinds = {kind.__name__: kind for kind in (LegacyBilinear, Bicubic)}
    kind, _, size = text.partition(" ")
    if text == "none":
        return None
    if kind not in kinds or not size.isdigit() or not int(size):
        raise ValueError(
            f"A resize is none, or one of {', '.join(kinds)} and a size, as in 'Bicubic 28'. "
            f"Received {text!r}."
        )
    return kinds[kind](int(size))
