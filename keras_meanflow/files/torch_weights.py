"""Marks layers with their names in a torch state dict, and fills them from one."""

from __future__ import annotations

import os

import keras
import numpy as np

from keras_meanflow.files.numbers import check_finite

MANY = 5  # names that an error lists


def named(layer: keras.layers.Layer, torch_name: str) -> keras.layers.Layer:
    """Returns the layer, marked with the name that its weights have in torch."""
    layer.torch_name = torch_name
    return layer


def conv(
    width: int, torch_name: str, *, kernel: int = 3, strides: int = 1, use_bias: bool = True
) -> keras.layers.Layer:
    """Returns a convolution with zero weights, to be filled; with strides it does not pad."""
    padding, zeros = "same" if strides == 1 else "valid", {"kernel_initializer": "zeros"}
    layer = keras.layers.Conv2D(width, kernel, strides, padding, use_bias=use_bias, **zeros)
    return named(layer, torch_name)


def load_torch(model: keras.Model, state: dict[str, np.ndarray], source: str | os.PathLike) -> None:
    """Fills the layers of `model` that have a torch name with the arrays of a state dict.

    Args:
        model: a built model.
        state: arrays by torch name, in torch's layout.
        source: where the state is from, for error messages.

    Raises:
        ValueError: for missing or unknown names, arrays of another shape, or NaN.
    """
    wanted = dict(_slots(model))
    missing, unknown = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or unknown:
        raise ValueError(
            f"{source} must hold the weights of this codec. Missing: {_listed(missing)}. "
            f"Unknown: {_listed(unknown)}."
        )
    check_finite({name: state[name] for name in wanted})
    arrays = {name: _in_layout(variable, state[name]) for name, variable in wanted.items()}
    wrong = [n for n, variable in wanted.items() if arrays[n].shape != tuple(variable.shape)]
    if wrong:
        expected = tuple(wanted[wrong[0]].shape)
        raise ValueError(
            f"{source} is of another size: {len(wrong)} arrays differ. The first, {wrong[0]}, "
            f"should have the shape {expected} (channels last). Received {arrays[wrong[0]].shape}."
        )
    for name, variable in wanted.items():
        variable.assign(arrays[name].astype("float32"))


def _slots(model):
    """Yields (torch name, variable) for all marked layers."""
    for layer in model._flatten_layers():
        if hasattr(layer, "torch_name"):
            weights = [v for v in layer.variables if v.name in ("kernel", "gamma")]
            biases = [v for v in layer.variables if v.name in ("bias", "beta")]
            yield from ((f"{layer.torch_name}.weight", variable) for variable in weights)
            yield from ((f"{layer.torch_name}.bias", variable) for variable in biases)


def _in_layout(variable, array):
    """Torch's (out, in, h, w) or (out, in) as Keras' (h, w, in, out) or (in, out)."""
    if len(variable.shape) == 2 and array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]  # a dense layer stored as a convolution
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _listed(names):
    names = sorted(names)
    more = f" and {len(names) - MANY} more" if len(names) > MANY else ""
    return (", ".join(names[:MANY]) or "none") + more
