"""The LeNet whose 84 features are used for FID on MNIST."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np
from keras import layers


def lenet() -> keras.Model:
    """The network without weights: (B, 28, 28, 1) in [0, 1] to a dict of features.

    Returns:
        A model with the outputs `features` (B, 84) and `logits` (B, 10).

    Example:
        >>> network = lenet()
        >>> load_lenet(network, read_weights("lenet_mnist_fid.pth"))
    """
    images = keras.Input((28, 28, 1))
    x = layers.Conv2D(6, 5, activation="relu", name="conv1")(images)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(16, 5, activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Permute((3, 1, 2))(x)  # flattened channels first, as in PyTorch
    x = layers.Dense(120, activation="relu", name="fc1")(layers.Flatten()(x))
    features = layers.Dense(84, activation="relu", name="fc2")(x)
    logits = layers.Dense(10, name="fc3")(features)
    return keras.Model(images, {"features": features, "logits": logits}, name="lenet_mnist")


def load_lenet(network: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Load a PyTorch state dict (`conv1.weight` ... `fc3.bias`) into the network.

    Args:
        network: From `lenet()`.
        state: Arrays by PyTorch name.

    Raises:
        ValueError: When a name is missing, or a shape does not fit.
    """
    for name in ("conv1", "conv2", "fc1", "fc2", "fc3"):
        if f"{name}.weight" not in state or f"{name}.bias" not in state:
            raise ValueError(f"LeNet needs {name}.weight and {name}.bias. Got {sorted(state)}.")
        weight = state[f"{name}.weight"]
        kernel = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T
        network.get_layer(name).set_weights([kernel, state[f"{name}.bias"]])
