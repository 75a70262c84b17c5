"""SqueezeNet 1.1 without its classifier: 512 features of colour images from 0.7 M parameters."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
from keras import layers, ops

register = keras.saving.register_keras_serializable("keras_meanflow")

FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128)}
FIRES |= {6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
PARTS = ("squeeze1x1", "expand1x1", "expand3x3")
MEAN = (103.939, 116.779, 123.68)  # of blue, green, red on ImageNet


def squeezenet() -> keras.Model:
    """The network without weights: (B, H, W, 3), blue first, mean subtracted, to (B, 512) features.

    H and W are at least 48.

    Example:
        >>> network = squeezenet()
        >>> load_squeezenet(network, "squeezenet1.1_imagenet_notop.h5")

    References:
        Iandola et al., SqueezeNet, 2016, arXiv 1602.07360; version 1.1 of the authors' repository.
    """
    images = keras.Input((None, None, 3))
    x = layers.Conv2D(64, 3, 2, activation="relu", name="conv1")(images)
    for number, (squeezed, expanded) in FIRES.items():
        if number in (2, 4, 6):
            x = layers.MaxPooling2D(3, 2)(x)
        x = _fire(x, f"fire{number}", squeezed, expanded)
    features = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, {"features": features}, name="squeezenet_1_1")


def load_squeezenet(network: keras.Model, path: str | os.PathLike) -> None:
    """Load a published Keras-1 HDF5 file (`squeezenet ... notop.h5`) into the network.

    Args:
        network: From `squeezenet()`.
        path: The file, with one group a layer: a kernel (kh, kw, in, out) and a bias.

    Raises:
        ImportError: When h5py is not installed.
        ValueError: When the file lacks a layer, or a shape does not fit.
    """
    import h5py

    with h5py.File(path) as file:
        fires = [f"fire{number}/{part}" for number in FIRES for part in PARTS]
        for name in ("conv1", *fires):
            if name not in file:
                raise ValueError(f"SqueezeNet needs the group {name!r}. {path} has {list(file)}.")
            names = [n.decode() for n in file[name].attrs["weight_names"]]
            kernel, bias = (np.asarray(file[name][n]) for n in names)
            network.get_layer(name.replace("/", "-")).set_weights([kernel, bias])


@register
class BlueFirst(layers.Layer):
    """RGB pixels in 0..255 to blue, green, red minus their means, the input of Caffe's networks."""

    def call(self, images: Any) -> Any:
        if images.shape[1] < 48 or images.shape[2] < 48:
            raise ValueError(
                f"SqueezeNet needs images of 48 px or more. Received {images.shape[1:3]}: pass "
                "`resize`."
            )
        return ops.flip(images, axis=-1) - ops.convert_to_tensor(MEAN, images.dtype)


def _fire(x, name, squeezed, expanded):
    x = layers.Conv2D(squeezed, 1, activation="relu", name=f"{name}-squeeze1x1")(x)
    left = layers.Conv2D(expanded, 1, activation="relu", name=f"{name}-expand1x1")(x)
    right = layers.Conv2D(expanded, 3, 1, "same", activation="relu", name=f"{name}-expand3x3")(x)
    return ops.concatenate([left, right], axis=-1)
