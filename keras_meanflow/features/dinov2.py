"""DINOv2 vision transformers; FD-DINOv2 is measured on their class token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.features.resize import cubic

register = keras.saving.register_keras_serializable("keras_meanflow")

PATCH = 14
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}  # width, depth, heads
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red first
TOKENS = ("cls_token", "pos_embed", "mask_token")


def dinov2(size: tuple[int, int, int] = SIZES["l"], image_size: int = 224) -> keras.Model:
    """The network without weights: standardised images (B, S, S, 3) to (B, D) features.

    Args:
        size: Width, depth and number of heads; `SIZES["l"]` is the one FD-DINOv2 uses.
        image_size: Height and width in pixels, a multiple of 14.

    Raises:
        ValueError: When the image size is not a multiple of 14.

    Example:
        >>> network = dinov2(SIZES["s"])
        >>> load_dinov2(network, read_weights("dinov2_vits14_pretrain.pth"))

    References:
        Oquab et al., DINOv2, 2023, arXiv 2304.07193.
        Stein et al., Exposing flaws of generative model evaluation metrics, 2023, arXiv 2306.04675.
    """
    if image_size % PATCH:
        raise ValueError(f"DINOv2 needs sizes that are multiples of 14. Received {image_size}.")
    width, depth, heads = size
    images = keras.Input((image_size, image_size, 3))
    x = layers.Conv2D(width, PATCH, PATCH, name="patch_embed-proj")(images)
    x = layers.Reshape((-1, width))(x)  # (B, N, D)
    x = Tokens(name="tokens")(x)  # (B, 1 + N, D)
    for number in range(depth):
        x = _block(x, f"blocks-{number}", heads)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    return keras.Model(images, {"features": x[:, 0]}, name="dinov2")


def load_dinov2(network: keras.Model, state: Mapping[str, np.ndarray]) -> None:
    """Load a published state dict (`dinov2_vitl14_pretrain.pth`) into the network.

    The position table is resampled to the network's image size, as in the official code. The scale
    of each residual branch is multiplied into its last matrix.

    Args:
        network: From `dinov2()`, of the size of the weights.
        state: Arrays by PyTorch name: `cls_token`, `blocks.0.attn.qkv.weight`, ...

    Raises:
        ValueError: When a name is missing or left over, or a shape does not fit.
    """
    left = set(state) - set(TOKENS)
    for layer in network.layers:
        name = layer.name.replace("-", ".")
        if name == "tokens":
            layer.set_weights([_token_table(state, math.isqrt(layer.table.shape[0] - 1))])
        elif layer.weights:
            weight, bias = (_entry(state, f"{name}.{part}") for part in ("weight", "bias"))
            left -= {f"{name}.weight", f"{name}.bias"}
            scale = _branch_scale(name)
            if scale:
                gamma = _entry(state, scale)
                weight, bias = weight * gamma[:, None], bias * gamma
                left.discard(scale)
            layer.set_weights([_keras_kernel(weight), bias])
    if left:
        raise ValueError(f"The state dict has names that this DINOv2 lacks: {sorted(left)}.")


def _branch_scale(name):
    """The name of the scale of a residual branch, for the last layer of the branch; else None."""
    for end, scale in ((".attn.proj", ".ls1.gamma"), (".mlp.fc2", ".ls2.gamma")):
        if name.endswith(end):
            return name.removesuffix(end) + scale
    return None


@register
class Tokens(layers.Layer):
    """Prepends a class token to the patches (B, N, D) and adds the table of positions."""

    def build(self, input_shape: tuple) -> None:
        _, patches, width = input_shape
        self.table = self.add_weight(shape=(1 + patches, width), name="table")

    def call(self, patches: Any) -> Any:
        return ops.pad(patches, ((0, 0), (1, 0), (0, 0))) + self.table


@register
class TokenAttention(layers.Layer):
    """Softmax attention on queries, keys and values in one array, (B, N, 3 D) to (B, N, D)."""

    def __init__(self, heads: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads = heads

    def call(self, qkv: Any) -> Any:
        tokens, width = qkv.shape[1], qkv.shape[2] // 3
        qkv = ops.reshape(qkv, (-1, tokens, 3, self.heads, width // self.heads))
        mixed = ops.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return ops.reshape(mixed, (-1, tokens, width))

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (*input_shape[:-1], input_shape[-1] // 3)

    def get_config(self) -> dict:
        return {**super().get_config(), "heads": self.heads}


def _block(x, name, heads):
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}-norm1")(x)
    y = layers.Dense(3 * width, name=f"{name}-attn-qkv")(y)
    y = TokenAttention(heads, name=f"{name}-attn")(y)
    x = x + layers.Dense(width, name=f"{name}-attn-proj")(y)
    y = layers.LayerNormalization(epsilon=1e-6, name=f"{name}-norm2")(x)
    y = layers.Dense(4 * width, name=f"{name}-mlp-fc1")(y)
    y = ops.gelu(y, approximate=False)
    return x + layers.Dense(width, name=f"{name}-mlp-fc2")(y)


def _entry(state, name):
    if name not in state:
        raise ValueError(f"DINOv2 needs {name!r}, which the state dict lacks.")
    return state[name]


def _keras_kernel(weight):
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    return weight.T  # a vector stays as it is


def _token_table(state, side):
    """Class token and positions, (1 + side^2, D), with the positions resampled to `side`."""
    table = _entry(state, "pos_embed")[0].astype(np.float64)
    patches, stored = table[1:], math.isqrt(len(table) - 1)
    if stored != side:
        matrix = _bicubic_matrix(stored, side)
        grid = patches.reshape(stored, stored, -1)
        patches = np.einsum("ik,jl,klc->ijc", matrix, matrix, grid).reshape(side * side, -1)
    return np.concatenate([table[:1] + _entry(state, "cls_token")[0], patches])


def _bicubic_matrix(length, size):
    """PyTorch's bicubic interpolation with the official code's offset of 0.1, (size, length)."""
    position = (np.arange(size) + 0.5) * length / (size + 0.1) - 0.5
    low = np.floor(position).astype(int)
    matrix = np.zeros((size, length))
    for tap in range(-1, 3):
        source = np.clip(low + tap, 0, length - 1)
        np.add.at(matrix, (np.arange(size), source), cubic(position - low - tap, a=-0.75))
    return matrix
