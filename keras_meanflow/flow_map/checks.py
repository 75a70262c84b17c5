"""What data a network can be trained on: checked before training, and at every trace."""

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.data.arrays import warn_of_range
from keras_meanflow.networks.base import Network, check_label_values
from keras_meanflow.objectives.base import Objective


def check_arrays(network: Network, x: Any, y: Any = None) -> None:
    """Raise a ValueError if arrays, or a dict of them, cannot be trained on."""
    for name, array in named(x).items():
        array = as_numpy(array)
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


def are_arrays(x: Any) -> bool:
    """Whether x is an array, a tensor or a dict of these: data whose values are at hand."""
    arrays = keras.tree.flatten(x)
    return bool(arrays) and all(hasattr(array, "__array__") for array in arrays)


def check_types(network: Network, x: Any, y: Any) -> None:
    """Raise a ValueError if a batch, symbolic or not, cannot be trained on by its types."""
    for name, array in named(x).items():
        check_batch(network, name, array)
    network.check_condition(y, values=False)
    counts = {tuple(a.shape[:1]) for a in keras.tree.flatten((x, y)) if a is not None}
    if len({count for (count,) in counts if count is not None}) > 1:
        raise ValueError(f"x and y must have one row per sample. Received: {sorted(counts)} rows.")


def check_values(network: Network, x: Any, y: Any, *, pixels: bool) -> None:
    """Check the values of a batch, or of all data, in NumPy.

    Args:
        network: the network in training.
        x, y: the data and the condition, or None.
        pixels: warn too if x looks like images in another range, or labels count from 1.

    Raises:
        ValueError: for labels outside 0..num_classes.
    """
    labels = y.get("labels") if isinstance(y, dict) else y
    if network.num_classes is not None and labels is not None:
        labels = as_numpy(labels)
        check_label_values(labels, network.num_classes)
        if pixels:
            _warn_of_first_label(labels, network.num_classes)
    if pixels and len(network.data_shape) == 3:
        warn_of_range(as_numpy(named(x)["x"]), "x")


def _warn_of_first_label(labels, num_classes):
    """Labels 1..K are most likely numbered from 1: K would train the null label as a class."""
    if labels.size and 0 < labels.min() < labels.max() == num_classes:
        warnings.warn(
            f"The labels lie in {labels.min()}..{num_classes}: there is no 0, and {num_classes} is "
            "the null label. If they count from 1, pass y - 1.",
            stacklevel=2,
        )


def as_numpy(array: Any) -> np.ndarray:
    """An array or tensor of any library in NumPy."""
    return ops.convert_to_numpy(array) if ops.is_tensor(array) else np.asarray(array)


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
    shape = getattr(y, "shape", ())
    known = getattr(shape, "rank", 0) is not None  # TensorFlow has shapes without a rank
    return known and tuple(shape)[1:] == (0,)


def array_of_weights(weights: Any, rows: int) -> np.ndarray:
    """The sample weights of `rows` samples as float32 (n,), from an array (n,) or (n, 1).

    Raises:
        ValueError: for another shape, NaN, infinity or negative weights.
    """
    weights = np.asarray(weights)
    check_shape_of_weights(weights.shape, rows)
    wrong = np.sum(~(np.isfinite(weights) & (weights >= 0)))
    if wrong:
        raise ValueError(
            f"sample_weight must be finite and at least 0. Received: {wrong} other values."
        )
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
    if are_arrays(x):
        return min(batch_size or 32, len(next(iter(keras.tree.flatten(x)))))
    size = batch_size or getattr(x, "batch_size", None)
    return None if size is None else int(size)


def named(x: Any) -> dict[str, Any]:
    """The arrays of data by name: `x` alone, or {"x", "e"} of stored pairs.

    Raises:
        ValueError: for a dict of other names.
    """
    if not isinstance(x, dict):
        return {"x": x}
    if "x" not in x or not set(x) <= {"x", "e"}:
        raise ValueError(
            "Data is an array x, or {'x', 'e'} for stored pairs; labels are y. "
            f"Received a dict of {', '.join(map(str, x))}: pass tuples (x, y), of a tf.data set by "
            "data.map(lambda row: (row['image'], row['label']))."
        )
    return x
