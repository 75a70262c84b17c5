"""Loads networks from published files and saves them: `load_network` and `save_network`."""

from __future__ import annotations

import json
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.files.numbers import check_finite
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.reading import reading
from keras_meanflow.files.safetensors import read_metadata
from keras_meanflow.files.writers import write_weights
from keras_meanflow.formats.choosing import chosen_state
from keras_meanflow.formats.dit import DIT_FORMATS
from keras_meanflow.formats.dit_dh import RAE_FORMATS
from keras_meanflow.formats.format import Format
from keras_meanflow.formats.in_context import IMF_FORMATS
from keras_meanflow.formats.names import named_weights
from keras_meanflow.formats.unet import UNET_FORMATS
from keras_meanflow.networks import Network

NATIVE = "keras_meanflow"
FORMATS: dict[str, Format] = {
    f.name: f for f in (*DIT_FORMATS, *IMF_FORMATS, *RAE_FORMATS, *UNET_FORMATS)
}


def load_network(
    path: str | os.PathLike,
    format: str | None = None,
    *,
    averaged: bool = True,
    **settings: Any,
) -> Network:
    """A network of this package with the weights of a published file.

    The shapes of the tensors give most arguments of the network. The others are passed by name, and
    an error asks for a missing one: `image_size` where no position table is stored, `split_depth`
    of a Decoupled MeanFlow, `heads` for a width that was never published.

    Args:
        path: `.pt`, `.pth`, `.safetensors`, `.npz`, `.msgpack`, or an orbax folder.
        format: a name of `FORMATS`, or None to recognise it by the tensors' names.
        averaged: of a training checkpoint, whether to take averaged weights (where there are any)
            or the raw ones.
        **settings: arguments of the network.

    Returns:
        A `DiT`, `DiTDH`, `InContextDiT` or `UNet` in the conventions of this package: t = 1 is
        noise, and the output is the average velocity. The networks of the formats "dit" and
        "diffusers" predict the noise of a DDPM: for these, a `NoisePrediction` around the `DiT`.

    Raises:
        ValueError: for missing or unmatched tensors (all are named), or another size; for a file
            that cannot be recognised or read, that holds NaN or two sets of the same tensors, or
            whose pickle asks for more than tensors.

    Example:
        >>> network = load_network("SiT-XL-2-256.pt", "sit")
        >>> flow_map = FlowMap(add_interval(network))  # ready to become a MeanFlow
    """
    config = read_metadata(path).get(NATIVE)
    if config is not None:
        return _native_network(path, config, format, settings)
    tree = read_weights(path)
    try:
        state = chosen_state(tree, averaged=averaged)
        check_finite(state)
        found = _format(format, state)
        network = found.network(state, **settings)
        found.check(network)
        found.read_into(network, state)
    except ValueError as error:
        raise ValueError(f"{path} cannot be loaded. {error}") from error
    return found.velocity(network)


def save_network(network: Network, path: str | os.PathLike, format: str = NATIVE) -> None:
    """Write a network's weights with the names and layouts of a format.

    The format "keras_meanflow" is a `.safetensors` file that also holds the network's arguments.

    Args:
        network: any network for "keras_meanflow"; a `NoisePrediction` around a `DiT` for "dit" and
            "diffusers"; otherwise the `DiT`, `DiTDH`, `InContextDiT` or `UNet` of the format.
        path: its ending is the container: `.safetensors`, `.npz`, `.msgpack`, `.pt` or `.pth`.
        format: a name of `FORMATS`, or "keras_meanflow".

    Raises:
        ValueError: for a network that the code of the format would compute differently.

    Example:
        >>> save_network(network, "network.safetensors")
        >>> save_network(network, "meanflow.msgpack", "meanflow")
    """
    if format == NATIVE:
        if not str(path).endswith(".safetensors"):
            raise ValueError(f"Files in the format {NATIVE} end in .safetensors. Received: {path}.")
        write_weights(path, native_state(network), metadata={NATIVE: json.dumps(_config(network))})
        return
    found = _named(format)
    state = found.state_of(found.published(network))
    write_weights(path, state, wrapping=found.wrapping)


def native_state(network: keras.Layer) -> dict[str, np.ndarray]:
    """A network's weights as arrays, under the names of `named_weights`."""
    return {n: ops.convert_to_numpy(v.value) for n, v in named_weights(network).items()}


def assign_native(network: keras.Layer, state: dict[str, np.ndarray]) -> None:
    """Assign the arrays of `native_state` to a network.

    Raises:
        ValueError: for missing or unmatched names (all are listed), another shape, or NaN.
    """
    check_finite(state)
    weights = named_weights(network)
    missing, unmatched = sorted(set(weights) - set(state)), sorted(set(state) - set(weights))
    if missing or unmatched:
        raise ValueError(
            "The file must hold the network's tensors. "
            f"Missing: {', '.join(missing) or 'none'}. Unmatched: {', '.join(unmatched) or 'none'}."
        )
    for name, variable in weights.items():
        if tuple(variable.shape) != state[name].shape:
            raise ValueError(
                "The file's sizes must match the network's. "
                f"{name} is {state[name].shape}, the network's is {tuple(variable.shape)}."
            )
    for name, variable in weights.items():
        variable.assign(state[name])


def _config(network):
    return keras.saving.serialize_keras_object(network)


def _native_network(path, config, format, settings):
    if format not in (None, NATIVE):
        raise ValueError(f"{path} is in the format {NATIVE}. Received: format={format!r}.")
    state = read_weights(path)
    with reading(path):
        config = json.loads(config)
        config["config"] |= settings
        network = keras.saving.deserialize_keras_object(config)
        assign_native(network, state)
        return network


def _named(name):
    if name not in FORMATS:
        raise ValueError(f"Formats are {', '.join((*FORMATS, NATIVE))}. Received: {name!r}.")
    return FORMATS[name]


def _format(name, state):
    """The format of this name, or the one that recognises the tensors."""
    if name is not None:
        return _named(name)
    found = [f for f in FORMATS.values() if f.recognises(state)]
    if len(found) != 1:
        known = "; ".join(f"{f.name}: {f.origin}" for f in found or FORMATS.values())
        raise ValueError(
            f"{'Several formats have' if found else 'No format has'} tensors with these "
            f"{len(state)} names, such as {sorted(state)[:3]}: say which format it is. {known}."
        )
    return found[0]
