"""What data a network can be trained on: checked before training, and at every trace."""

from typing import Any

import keras
import numpy as np

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.base import Objective


def check_arrays(network: Network, x: np.ndarray | dict, y: Any = None) -> None:
    """Raise a ValueError if NumPy arrays, or a dict of them, cannot be trained on."""
    for name, array in named(x).items():
        check_batch(network, name, array)
        bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"Data must be finite. {bad.sum()} rows of {name} hold NaN or infinity, the "
                f"first at index {int(np.argmax(bad))}."
            )
    network.check_condition(y)


def check_batch(network: Network, name: str, array: Tensor) -> None:
    """Raise a ValueError if an array or tensor has another type or shape than the network's."""
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype)):
        raise ValueError(
            f"Data must be floats, images scaled to [-1, 1]. Received: {name} of {array.dtype}."
        )
    if tuple(array.shape[1:]) != network.data_shape:
        raise ValueError(
            f"Data must have the network's shape (batch, *{network.data_shape}). "
            f"Received: {name} of shape {tuple(array.shape)}."
        )


def check_objective(network: Network, objective: Objective) -> None:
    """Raise a ValueError if an objective cannot train a network."""
    objective.check_network(network)
    companion = [objective.companion] if objective.companion else []
    for other in (*objective.teachers, *companion):
        if other is network or other.data_shape != network.data_shape:
            raise ValueError(
                "An objective's network is another one than the network that is trained, for data "
                f"of its shape, {network.data_shape}. Received: {type(other).__name__} "
                f"{other.name!r} for {other.data_shape}."
            )


def rows_of(x: Any, batch_size: int | None = None) -> int | None:
    """The number of rows in a nominal batch of the x that `fit` takes; None if unknown."""
    if isinstance(x, np.ndarray | dict):
        return min(batch_size or 32, len(next(iter(keras.tree.flatten(x)))))
    size = batch_size or getattr(x, "batch_size", None)
    return None if size is None else int(size)


def named(x: Any) -> dict[str, Any]:
    """The arrays of data by name: `x` alone, or a dict such as {"x", "e"}."""
    return x if isinstance(x, dict) else {"x": x}
