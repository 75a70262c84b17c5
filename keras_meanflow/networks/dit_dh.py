"""DiTDH: a deep narrow transformer whose outputs modulate each token of a wide shallow head."""

from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.networks.layers import TIME_INPUTS, TokenDense, attend, sincos_positions
from keras_meanflow.networks.patches import patch_grid, patchify, unpatchify
from keras_meanflow.networks.rotary import fan_in_normal, rms_norm, rotate
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes

DH_SIZES = {  # width, depth and heads, each of the body and of the head
    "S": ((384, 2048), (12, 2), (6, 16)),
    "B": ((768, 2048), (12, 2), (12, 16)),
    "XL": ((1152, 2048), (28, 2), (16, 16)),
}
FREQUENCIES = 256


def torch_linear() -> keras.initializers.Initializer:
    """A new initializer with the standard deviation of PyTorch's default; it holds a seed."""
    return fan_in_normal(3**-0.5)


@register
class FourierTimeEmbedding(layers.Layer):
    """`MLP([sin(2 pi W t), cos(2 pi W t)])` with 256 fixed random frequencies W ~ N(0, 1).

    W is saved and never trained. All in float32.

    Args:
        width: size of the output.
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs}, autocast=False)
        self.width = width
        init = {"kernel_initializer": keras.initializers.RandomNormal(stddev=0.02)}
        self.hidden = layers.Dense(width, "silu", dtype="float32", **init)
        self.out = layers.Dense(width, dtype="float32", **init)

    def build(self, input_shape: tuple) -> None:
        """Draw the frequencies and build the MLP."""
        normal = keras.initializers.RandomNormal(stddev=1.0)
        self.frequencies = self.add_weight((FREQUENCIES,), normal, trainable=False, name="W")
        self.hidden.build((None, 2 * FREQUENCIES))
        self.out.build((None, self.width))

    def call(self, t: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        angle = (2.0 * np.pi) * ops.expand_dims(t, 1) * self.frequencies
        return self.out(self.hidden(ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=1)))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "width": self.width}


def rotary_grid(rows: int, columns: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (rows * columns, size / 2); the first half of the angles encodes rows."""
    half = size // 2
    w = 1.0 / 10_000.0 ** (np.arange(0, half, 2, dtype="float32") / half)
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    angles = [np.outer(a.ravel(), w).astype("float32") for a in (row, column)]
    angle = np.concatenate(angles, axis=1)
    return np.cos(angle), np.sin(angle)


def modulate_tokens(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x (1 + scale) + shift`, (B, N, D) with (B, N, D), or with (B, 1, D) for all tokens."""
    return x * (1.0 + scale) + shift


@register
class TokenwiseBlock(layers.Layer):
    """Rotary attention and SwiGLU, with a modulation and a gate for each token (adaLN-Zero).

    Args:
        heads: attention heads.
        mlp_ratio: the SwiGLU's hidden size is two thirds of this times the width.
    """

    def __init__(self, heads: int, *, mlp_ratio: float = 4.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.mlp_ratio = heads, mlp_ratio

    def build(
        self,
        x_shape: tuple,
        c_shape: tuple | None = None,
        cos_shape: tuple | None = None,
        sin_shape: tuple | None = None,
    ) -> None:
        """Build the sub-layers for tokens (B, N, D)."""
        width, policy = x_shape[-1], self.dtype_policy
        if width % self.heads or (width // self.heads) % 4:
            raise ValueError(
                "A head's size must be a multiple of 4, for pairs along rows and columns. "
                f"Received: width {width}, heads {self.heads}."
            )
        hidden = int(2 / 3 * int(width * self.mlp_ratio))
        init = {"kernel_initializer": torch_linear(), "dtype": policy}
        self.norm1, self.norm2 = rms_norm(policy), rms_norm(policy)
        self.qkv, self.proj = TokenDense(3 * width, **init), TokenDense(width, **init)
        self.fc1, self.fc2 = TokenDense(2 * hidden, **init), TokenDense(width, **init)
        self.modulation = TokenDense(6 * width, kernel_initializer="zeros", dtype=policy)
        for layer in (self.norm1, self.norm2, self.qkv, self.proj, self.fc1, self.modulation):
            layer.build((None, width))
        self.fc2.build((None, hidden))

    def call(self, x: Tensor, c: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Tokens (B, N, D), condition (B, N or 1, D) and `rotary_grid` to tokens (B, N, D)."""
        parts = ops.split(self.modulation(ops.silu(c)), 6, axis=-1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        attended = self._attend(modulate_tokens(self.norm1(x), shift_a, scale_a), cos, sin)
        x = x + gate_a * attended
        gate, up = ops.split(self.fc1(modulate_tokens(self.norm2(x), shift_m, scale_m)), 2, axis=-1)
        return x + gate_m * self.fc2(ops.silu(gate) * up)

    def _attend(self, x, cos, sin):
        tokens, width = x.shape[1:]
        qkv = ops.reshape(self.qkv(x), (-1, tokens, 3, self.heads, width // self.heads))
        q, k = rotate(qkv[:, :, 0], cos, sin), rotate(qkv[:, :, 1], cos, sin)
        mixed = attend(q, k, qkv[:, :, 2])
        return self.proj(ops.reshape(mixed, (-1, tokens, width)))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "heads": self.heads, "mlp_ratio": self.mlp_ratio}


@register
class DiTDH(Network):
    """DiT^DH: a body of narrow blocks, then a head of wide blocks over the same patches.

    `s = body(patches, silu(embed(t) + embed(t - r) + embed(label)))`. Each token of the head is
    modulated by `project(silu(embed(t) + embed(t - r) + s))`. For representations the head must be
    at least as wide as a token has channels.

    Args:
        image_size: height and width of the latents, an integer or a pair.
        channels: channels of a latent.
        patch_size: side of a patch.
        width, depth, heads: of the body and of the head.
        mlp_ratio: a SwiGLU's hidden size is two thirds of this times the width.
        num_classes: number of classes, or None for an unconditional network.
        time_inputs: which times are embedded: ("t",) for a flow model, ("t", "t-r") for a flow map.

    Raises:
        ValueError: for a patch size that does not divide the image, an unknown time input, or a
            head's size that is not a multiple of 4.

    Example:
        >>> network = DiTDH.from_size("XL", image_size=16, channels=768, num_classes=1000)

    References:
        Zheng et al., Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690);
        MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019).
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int = 1,
        width: tuple[int, int] = (1152, 2048),
        depth: tuple[int, int] = (28, 2),
        heads: tuple[int, int] = (16, 16),
        mlp_ratio: float = 4.0,
        num_classes: int | None = None,
        time_inputs: tuple[str, ...] = ("t", "t-r"),
        **kwargs: Any,
    ) -> None:
        sides, grid = patch_grid(image_size, patch_size)
        check_sizes(channels=channels, width=width, depth=depth, heads=heads)
        super().__init__(data_shape=(*sides, channels), num_classes=num_classes, **kwargs)
        unknown = [name for name in time_inputs if name not in TIME_INPUTS]
        if unknown or not time_inputs:
            raise ValueError(
                f"time_inputs are some of {sorted(TIME_INPUTS)}. Received: {tuple(time_inputs)}."
            )
        self.image_size, self.channels, self.patch_size = sides, channels, patch_size
        self.width, self.depth, self.heads = tuple(width), tuple(depth), tuple(heads)
        self.mlp_ratio, self.time_inputs, self.grid = mlp_ratio, tuple(time_inputs), grid
        self._make_layers()

    @classmethod
    def from_size(
        cls, size: str, *, image_size: int | tuple[int, int], channels: int, **kwargs: Any
    ) -> Self:
        """A published size: S, B or XL."""
        if size not in DH_SIZES:
            raise ValueError(f"size is one of {', '.join(DH_SIZES)}. Received: {size!r}.")
        width, depth, heads = DH_SIZES[size]
        sizes = {"image_size": image_size, "channels": channels}
        return cls(**sizes, width=width, depth=depth, heads=heads, **kwargs)

    def _make_layers(self):
        (body, head), policy = self.width, self.dtype_policy
        patch = self.patch_size**2 * self.channels
        self.body_patches = TokenDense(body, dtype=policy)
        self.head_patches = TokenDense(head, dtype=policy)
        self.times = [FourierTimeEmbedding(body) for _ in self.time_inputs]
        for layer in (self.body_patches, self.head_patches, *self.times):
            layer.build((None, patch))
        if self.conditional:
            init = keras.initializers.RandomNormal(stddev=0.02)
            self.labels = layers.Embedding(
                self.num_classes + 1, body, embeddings_initializer=init, dtype="float32"
            )
            self.labels.build((None,))
        self.blocks = []
        for width, depth, heads in zip(self.width, self.depth, self.heads, strict=True):
            for _ in range(depth):
                block = TokenwiseBlock(heads, mlp_ratio=self.mlp_ratio, dtype=policy)
                block.build((None, None, width))
                self.blocks.append(block)
        if body != head:
            self.projection = TokenDense(head, kernel_initializer=torch_linear(), dtype=policy)
            self.projection.build((None, body))
        self.norm = rms_norm(policy)
        self.norm.build((None, head))
        self.modulation = TokenDense(2 * head, kernel_initializer="zeros", dtype=policy)
        self.modulation.build((None, head))
        # The last layer is float32, because targets and losses are.
        self.out = TokenDense(patch, kernel_initializer="zeros", dtype="float32")
        self.out.build((None, head))
        self.built = True

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity, float32 of the shape of `z`."""
        patches = ops.cast(patchify(z, self.grid, self.patch_size), self.compute_dtype)
        time = ops.expand_dims(self._time(r, t), 1)  # (B, 1, D)
        s = self._body(patches, time, condition)
        s = ops.silu(ops.cast(time, s.dtype) + s)
        if self.width[0] != self.width[1]:
            s = self.projection(s)
        x = self.head_patches(patches)
        table = rotary_grid(*self.grid, self.width[1] // self.heads[1])
        for block in self.blocks[self.depth[0] :]:
            x = block(x, s, *table)
        shift, scale = ops.split(self.modulation(ops.silu(s)), 2, axis=-1)
        out = self.out(modulate_tokens(self.norm(x), shift, scale))
        return unpatchify(out, self.grid, self.patch_size)

    def _time(self, r, t):
        embedded = zip(self.time_inputs, self.times, strict=True)
        return sum(embedding(TIME_INPUTS[name](r, t)) for name, embedding in embedded)

    def _body(self, patches, time, condition):
        """The patches after the narrow blocks, (B, N, D)."""
        c = time
        if self.conditional:
            c = c + ops.expand_dims(self.labels(condition), 1)
        c = ops.cast(ops.silu(c), self.compute_dtype)
        s = self.body_patches(patches)
        s = s + ops.cast(sincos_positions(*self.grid, self.width[0]), s.dtype)
        table = rotary_grid(*self.grid, self.width[0] // self.heads[0])
        for block in self.blocks[: self.depth[0]]:
            s = block(s, c, *table)
        return s

    def get_config(self) -> dict:
        """The arguments."""
        names = "image_size channels patch_size width depth heads mlp_ratio num_classes".split()
        names += ["time_inputs"]
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
