"""The Inception-v3 of FID: the TensorFlow graph of 2015-12-05, with its published PyTorch names.

It differs from the usual Inception-v3: average pooling ignores the padding, the last block uses
max pooling, and there are 1008 classes. Batch normalisation is folded into the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops

EPSILON = 1e-3  # of the batch normalisation
CLASSES = 1008


def inception_v3() -> keras.Model:
    """The network without weights: (B, 299, 299, 3) in [-1, 1) to a dict of features.

    Returns:
        A model with the outputs `features` (B, 2048), from the last average pooling, and `logits`
        (B, 1008), without bias, for the Inception Score.

    Example:
        >>> network = inception_v3()
        >>> load_inception(network, read_weights("pt_inception-2015-12-05-6726825d.pth"))

    References:
        Szegedy et al., Rethinking the Inception Architecture, 2015, arXiv 1512.00567.
        Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, arXiv 1706.08500.
    """
    images = keras.Input((299, 299, 3))
    x = _conv(images, "Conv2d_1a_3x3", 32, 3, strides=2, padding="valid")
    x = _conv(x, "Conv2d_2a_3x3", 32, 3, padding="valid")
    x = _conv(x, "Conv2d_2b_3x3", 64, 3)
    x = layers.MaxPooling2D(3, 2)(x)
    x = _conv(x, "Conv2d_3b_1x1", 80, 1)
    x = _conv(x, "Conv2d_4a_3x3", 192, 3, padding="valid")
    x = layers.MaxPooling2D(3, 2)(x)  # (B, 35, 35, 192)
    for name, filters in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _block_35(x, name, filters)
    x = _shrink_35(x, "Mixed_6a")  # (B, 17, 17, 768)
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _block_17(x, name, width)
    x = _shrink_17(x, "Mixed_7a")  # (B, 8, 8, 1280)
    x = _block_8(x, "Mixed_7b", layers.AveragePooling2D)
    x = _block_8(x, "Mixed_7c", layers.MaxPooling2D)
    features = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(CLASSES, use_bias=False, name="fc")(features)
    return keras.Model(images, {"features": features, "logits": logits}, name="inception_v3_fid")


def load_inception(network: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Load the published state dict `pt_inception-2015-12-05` into the network.

    Args:
        network: From `inception_v3()`.
        state: Arrays by PyTorch name: `Mixed_5b.branch1x1.conv.weight`, ..., `fc.weight`.

    Raises:
        ValueError: When a name is missing or left over, or a shape does not fit.
    """
    left = {name for name in state if not name.endswith("num_batches_tracked")} - {"fc.bias"}
    for layer in network.layers:
        if isinstance(layer, layers.Conv2D):
            name = layer.name.replace("-", ".")
            layer.set_weights(_folded(name, state))
            left -= {f"{name}.{part}" for part in PARTS}
    network.get_layer("fc").set_weights([_entry(state, "fc.weight").T])
    left.discard("fc.weight")
    if left:
        raise ValueError(f"The state dict has names that Inception-v3 lacks: {sorted(left)}.")


PARTS = ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def _folded(name, state):
    """Kernel (kh, kw, in, out) and bias of a convolution and its batch normalisation."""
    kernel, gamma, beta, mean, variance = (
        np.asarray(_entry(state, f"{name}.{part}"), np.float64) for part in PARTS
    )
    scale = gamma / np.sqrt(variance + EPSILON)
    return kernel.transpose(2, 3, 1, 0) * scale, beta - mean * scale


def _entry(state, name):
    if name not in state:
        raise ValueError(f"Inception-v3 needs {name!r}, which the state dict lacks.")
    return state[name]


def _conv(x, name, filters, kernel, *, strides=1, padding="same"):
    options = {"activation": "relu", "kernel_initializer": "zeros"}  # weights are loaded later
    name = name.replace(".", "-")  # Keras on PyTorch allows no dot
    return layers.Conv2D(filters, kernel, strides, padding, name=name, **options)(x)


def _chain(x, name, *convolutions):
    """A sequence of convolutions (filters, kernel), named `name_1`, `name_2`, ..."""
    for number, (filters, kernel) in enumerate(convolutions, 1):
        x = _conv(x, f"{name}_{number}", filters, kernel)
    return x


def _pooled(x, name, filters, pool=layers.AveragePooling2D):
    return _conv(pool(3, 1, "same")(x), f"{name}.branch_pool", filters, 1)


def _block_35(x, name, pool_filters):
    return ops.concatenate(
        [
            _conv(x, f"{name}.branch1x1", 64, 1),
            _chain(x, f"{name}.branch5x5", (48, 1), (64, 5)),
            _chain(x, f"{name}.branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            _pooled(x, name, pool_filters),
        ],
        axis=-1,
    )


def _shrink_35(x, name):
    double = _chain(x, f"{name}.branch3x3dbl", (64, 1), (96, 3))
    return ops.concatenate(
        [
            _conv(x, f"{name}.branch3x3", 384, 3, strides=2, padding="valid"),
            _conv(double, f"{name}.branch3x3dbl_3", 96, 3, strides=2, padding="valid"),
            layers.MaxPooling2D(3, 2)(x),
        ],
        axis=-1,
    )


def _block_17(x, name, width):
    row, column = (1, 7), (7, 1)
    double = [(width, 1), (width, column), (width, row), (width, column), (192, row)]
    return ops.concatenate(
        [
            _conv(x, f"{name}.branch1x1", 192, 1),
            _chain(x, f"{name}.branch7x7", (width, 1), (width, row), (192, column)),
            _chain(x, f"{name}.branch7x7dbl", *double),
            _pooled(x, name, 192),
        ],
        axis=-1,
    )


def _shrink_17(x, name):
    single = _chain(x, f"{name}.branch3x3", (192, 1))
    seven = _chain(x, f"{name}.branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
    return ops.concatenate(
        [
            _conv(single, f"{name}.branch3x3_2", 320, 3, strides=2, padding="valid"),
            _conv(seven, f"{name}.branch7x7x3_4", 192, 3, strides=2, padding="valid"),
            layers.MaxPooling2D(3, 2)(x),
        ],
        axis=-1,
    )


def _block_8(x, name, pool):
    single = _chain(x, f"{name}.branch3x3", (384, 1))
    double = _chain(x, f"{name}.branch3x3dbl", (448, 1), (384, 3))
    return ops.concatenate(
        [
            _conv(x, f"{name}.branch1x1", 320, 1),
            _conv(single, f"{name}.branch3x3_2a", 384, (1, 3)),
            _conv(single, f"{name}.branch3x3_2b", 384, (3, 1)),
            _conv(double, f"{name}.branch3x3dbl_3a", 384, (1, 3)),
            _conv(double, f"{name}.branch3x3dbl_3b", 384, (3, 1)),
            _pooled(x, name, 192, pool),
        ],
        axis=-1,
    )
