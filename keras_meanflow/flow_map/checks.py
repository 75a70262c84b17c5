"""What data a network can be trained on: checked before training, and at every trace."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.base import Objective


def check_arrays(network: Network, x: np.ndarray | dict, y: Any = None) -> None:
    """Raise a ValueError if NumPy arrays, or a dict of them, cannot be trained on."""
    for name, array in named(x).items():
        check_batch(network, name, array)
        if not len(array):
            raise ValueError(f"No samples. Received: {name} of shape {array.shape}.")
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


def check_network(network: Any) -> None:
    """Raise a ValueError if a FlowMap is given something else than a `Network`."""
    if not isinstance(network, Network):
        raise ValueError(
            "FlowMap trains a Network u(z, r, t, condition): use DiT, UNet or MLP, or write a "
            f"subclass of keras_meanflow.networks.Network. Received: {type(network).__name__}."
        )


def placeholder(rows: int) -> np.ndarray:
    """A y that says nothing: Keras drops the sample weights of data without y."""
    return np.zeros((rows, 0), "float32")


def is_placeholder(y: Any) -> bool:
    """Whether y is a `placeholder`."""
    return tuple(getattr(y, "shape", ()))[1:] == (0,)


def array_of_weights(weights: Any, rows: int) -> np.ndarray:
    """The sample weights of `rows` samples as float32 (n,), from an array (n,) or (n, 1).

    Raises:
        ValueError: for another shape, NaN or infinity.
    """
    weights = np.asarray(weights)
    check_shape_of_weights(weights.shape, rows)
    wrong = np.sum(~np.isfinite(weights))
    if wrong:
        raise ValueError(f"sample_weight must be finite. Received: {wrong} values not finite.")
    return weights.reshape(-1).astype("float32")


def row_weights(weights: Any, rows: int | Tensor) -> Tensor:
    """The user's weights (n,) or (n, 1) as float32 (n,), for a batch of `rows`.

    For a y with several arrays Keras gives a structure of the same weights.
    """
    weights = keras.tree.flatten(weights)[0]
    check_shape_of_weights(tuple(weights.shape), rows)
    return ops.reshape(ops.cast(weights, "float32"), (-1,))


def check_shape_of_weights(shape: tuple, rows: int | Tensor) -> None:
    """Raise a ValueError if sample weights are not one number for each of `rows`."""
    known = isinstance(rows, int) and isinstance(shape[0] if shape else None, int)
    if shape[1:] not in ((), (1,)) or not shape or (known and shape[0] != rows):
        raise ValueError(
            "sample_weight has one number for each sample, shape (n,). "
            f"Received: shape {shape} for {rows} samples."
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
