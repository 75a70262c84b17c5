"""The weights of a network by identity: frozen or not, with Keras' LoRA or without."""

import keras

from keras_meanflow.backend import Tensor


def learnable(network: keras.Layer) -> list[keras.Variable]:
    """The weights of a network that training may move, frozen ones too, in a fixed order.

    Freezing a layer changes `trainable_variables`, but not this list.
    """
    layers = network._flatten_layers()
    ids = {id(weight) for layer in layers for weight in layer._trainable_variables}
    return [variable for variable in network.variables if id(variable) in ids]


def is_lora(variable: keras.Variable) -> bool:
    """Whether a variable is a factor that `enable_lora` added."""
    return variable.name.startswith("lora_")


def has_lora(network: keras.Layer) -> bool:
    """Whether `enable_lora` was called on a layer of the network."""
    return any(map(is_lora, network.variables))


def without_lora(network: keras.Layer) -> list[tuple[keras.Variable, Tensor]]:
    """The variables that a copy of the network has, and their values with LoRA merged in."""
    merged = {}
    for layer in network._flatten_layers():
        for name in ("kernel", "embeddings"):
            if getattr(layer, "lora_enabled", False) and hasattr(layer, f"_{name}"):
                merged[id(getattr(layer, f"_{name}"))] = getattr(layer, name)
    return [(v, merged.get(id(v), v.value)) for v in network.variables if not is_lora(v)]
