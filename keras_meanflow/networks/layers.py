"""Layers of the networks. Times are float32; matrix products use the compute dtype."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.backend import Tensor, attention, constant, inside_jvp
from keras_meanflow.parts.part import register

QUERY_BLOCK = 512  # queries whose scores are in memory together in forward mode

TIME_INPUTS: dict[str, Callable] = {
    "t": lambda r, t: t,
    "r": lambda r, t: r,
    "t-r": lambda r, t: t - r,
    "1-t": lambda r, t: 1.0 - t,
}


@register
class TokenDense(layers.Dense):
    """A Dense layer that folds all leading axes into one for the product.

    XLA on CPU computes the weight gradient of (B, N, D) 2.2 times slower than that of (B*N, D).
    """

    def call(self, inputs: Tensor) -> Tensor:
        """(..., D) to (..., units)."""
        lead = inputs.shape[1:-1]
        if not lead:
            return super().call(inputs)
        out = super().call(ops.reshape(inputs, (-1, inputs.shape[-1])))
        return ops.reshape(out, (-1, *lead, self.units))


@register
class TimeEmbedding(layers.Layer):
    """Sinusoids of a time in [0, 1], then a two-layer MLP, all in float32.

    `[cos(s t w_k), sin(s t w_k)]`, `w_k = 10000^(-k / (128 - f))`, with `s = time_scale` and
    `f = frequency_shift`.

    Args:
        width: size of the output.
        time_scale: factor between the time and the sinusoid. It multiplies du/dt. The official
            MeanFlow code has 1; a DiT with 1000 steps has 1000.
        frequencies: number of sinusoids.
        frequency_shift: f above. With 1, as in diffusers, the last frequency is exactly 1 / 10000.
        kernel_initializer: of the MLP; by default normal with standard deviation 0.02.
    """

    def __init__(
        self,
        width: int,
        *,
        time_scale: float = 1.0,
        frequencies: int = 256,
        frequency_shift: float = 0,
        kernel_initializer: str | dict | keras.initializers.Initializer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"dtype": "float32", **kwargs}, autocast=False)
        self.width, self.time_scale, self.frequencies = width, time_scale, frequencies
        self.frequency_shift = frequency_shift
        init = kernel_initializer or keras.initializers.RandomNormal(stddev=0.02)
        self.kernel_initializer = keras.initializers.get(init)
        init = {"kernel_initializer": self.kernel_initializer, "dtype": "float32"}
        self.hidden = layers.Dense(width, "silu", **init)
        self.out = layers.Dense(width, **init)

    def build(self, input_shape: tuple) -> None:
        """Build the MLP."""
        self.hidden.build((None, self.frequencies))
        self.out.build((None, self.width))

    def call(self, t: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        # The scale comes first, as in published code: at 1000 the order changes float32 results.
        features = sinusoids(self.time_scale * t, self.frequencies, self.frequency_shift)
        return self.out(self.hidden(features))

    def get_config(self) -> dict:
        """The arguments."""
        return {
            **super().get_config(),
            "width": self.width,
            "time_scale": self.time_scale,
            "frequencies": self.frequencies,
            "frequency_shift": self.frequency_shift,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def sinusoids(t: Tensor, count: int, shift: float = 0) -> Tensor:
    """`[cos(t w_k), sin(t w_k)]`, (B,) to (B, count), `w_k = 10000^(-k / (count / 2 - shift))`."""
    half = count // 2
    exponents = np.arange(half) / (half - shift)
    w = np.exp(-math.log(10_000) * exponents).astype("float32")
    # With a NumPy factor PyTorch would compute the product in NumPy and lose the tangent.
    angle = ops.expand_dims(t, 1) * constant(w[None], t)
    return ops.concatenate([ops.cos(angle), ops.sin(angle)], axis=1)


def sincos_positions(height: int, width: int, dim: int) -> np.ndarray:
    """(height * width, dim) fixed 2-D sin-cos positions; the first half of `dim` encodes columns.

    References:
        He et al., MAE, `pos_embed.py`, as used by DiT.
    """
    omega = 1.0 / 10_000 ** (np.arange(dim // 4, dtype="float64") / (dim / 4.0))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")

    def encode(positions):
        angle = positions.reshape(-1, 1) * omega[None]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    return np.concatenate([encode(columns), encode(rows)], axis=1).astype("float32")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """`x (1 + scale) + shift`, (B, N, D) with (B, D)."""
    return x * (1.0 + ops.expand_dims(scale, 1)) + ops.expand_dims(shift, 1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of (B, N, heads, size), through the backend's fused kernel where it has one.

    Forward mode has no fused kernel. There, more than `QUERY_BLOCK` queries are computed in blocks:
    the result is exact, and only (block, N) scores are in memory at a time.
    """
    tokens = q.shape[1]
    if not inside_jvp() or tokens <= QUERY_BLOCK:
        return attention(q, k, v)
    blocks = (q[:, first : first + QUERY_BLOCK] for first in range(0, tokens, QUERY_BLOCK))
    return ops.concatenate([attention(block, k, v) for block in blocks], axis=1)


@register
class Attention(layers.Layer):
    """Multi-head self-attention on tokens (B, N, D), through `attend`.

    Args:
        heads: number of heads.
        qk_norm: whether queries and keys go through an RMS norm with a learned scale.
    """

    def __init__(self, heads: int, *, qk_norm: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.qk_norm = heads, qk_norm

    def build(self, input_shape: tuple) -> None:
        """Build the projections."""
        width = input_shape[-1]
        if width % self.heads:
            raise ValueError(f"width must divide by heads. Received: {width}, {self.heads}.")
        self.size = width // self.heads
        self.qkv = TokenDense(3 * width, dtype=self.dtype_policy, name="qkv")
        self.proj = TokenDense(width, dtype=self.dtype_policy, name="proj")
        self.qkv.build((None, width))
        self.proj.build((None, width))
        if self.qk_norm:
            self.q_norm = layers.RMSNormalization(epsilon=1e-6, dtype=self.dtype_policy)
            self.k_norm = layers.RMSNormalization(epsilon=1e-6, dtype=self.dtype_policy)
            self.q_norm.build((None, self.size))
            self.k_norm.build((None, self.size))

    def call(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        tokens, width = x.shape[1:]
        qkv = ops.reshape(self.qkv(x), (-1, tokens, 3, self.heads, self.size))
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # (B, N, heads, size)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        out = attend(q, k, v)
        return self.proj(ops.reshape(out, (-1, tokens, width)))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "heads": self.heads, "qk_norm": self.qk_norm}


@register
class DiTBlock(layers.Layer):
    """A transformer block whose norms and residual gates depend on the condition (adaLN-Zero).

    Args:
        heads: number of heads.
        mlp_ratio: hidden size of the MLP over the width.
        qk_norm: see `Attention`.
    """

    def __init__(
        self, heads: int, *, mlp_ratio: float = 4.0, qk_norm: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.heads, self.mlp_ratio, self.qk_norm = heads, mlp_ratio, qk_norm

    def build(self, x_shape: tuple, c_shape: tuple | None = None) -> None:
        """Build the sub-layers for tokens (B, N, D)."""
        width, policy = x_shape[-1], self.dtype_policy
        hidden = int(width * self.mlp_ratio)
        self.norm = plain_norm(policy)
        self.attention = Attention(self.heads, qk_norm=self.qk_norm, dtype=policy)
        self.fc1 = TokenDense(hidden, dtype=policy, name="fc1")
        self.fc2 = TokenDense(width, dtype=policy, name="fc2")
        self.modulation = layers.Dense(
            6 * width, kernel_initializer="zeros", dtype=policy, name="modulation"
        )
        self.norm.build(x_shape)
        self.attention.build(x_shape)
        self.fc1.build((None, width))
        self.fc2.build((None, hidden))
        self.modulation.build((None, width))

    def call(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, N, D) and condition (B, D) to tokens (B, N, D)."""
        parts = ops.split(self.modulation(ops.silu(c)), 6, axis=1)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts
        attended = self.attention(modulate(self.norm(x), shift_a, scale_a))
        x = x + ops.expand_dims(gate_a, 1) * attended
        hidden = ops.gelu(self.fc1(modulate(self.norm(x), shift_m, scale_m)), approximate=True)
        return x + ops.expand_dims(gate_m, 1) * self.fc2(hidden)

    def get_config(self) -> dict:
        """The arguments."""
        return {
            **super().get_config(),
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "qk_norm": self.qk_norm,
        }


def plain_norm(policy: keras.DTypePolicy | str) -> layers.Layer:
    """Layer normalisation without learned scale or centre."""
    return layers.LayerNormalization(epsilon=1e-6, center=False, scale=False, dtype=policy)
