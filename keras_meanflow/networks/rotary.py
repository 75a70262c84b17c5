"""Transformer blocks with rotary positions, RMS norms, SwiGLU and gates that start at zero."""

from typing import Any

import keras
import numpy as np
from keras import initializers, layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.layers import TokenDense, attend
from keras_meanflow.parts.part import register


def fan_in_normal(gain: float) -> initializers.Initializer:
    """A new initializer: normal with standard deviation `gain / sqrt(fan_in)`."""
    return initializers.VarianceScaling(gain**2, "fan_in", "untruncated_normal")


def rms_norm(policy: keras.DTypePolicy | str) -> layers.Layer:
    """`x / sqrt(mean(x^2) + 1e-6)` with a learned scale."""
    return layers.RMSNormalization(epsilon=1e-6, dtype=policy)


def rotary_table(tokens: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines (tokens, size / 2) of `position * 10000^(-2k / size)`."""
    # In float32 as in published code: float64 angles already differ visibly at position 275.
    w = (1.0 / 10_000.0 ** (np.arange(0, size, 2, dtype="float32") / size)).astype("float32")
    angle = np.outer(np.arange(tokens, dtype="float32"), w).astype("float32")
    return np.cos(angle), np.sin(angle)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring pairs of (B, N, heads, size) by the angles of their position."""
    cos, sin = (ops.cast(a[:, None], x.dtype) for a in (cos, sin))  # (N, 1, size / 2)
    pairs = ops.reshape(x, (-1, *x.shape[1:-1], x.shape[-1] // 2, 2))
    a, b = pairs[..., 0], pairs[..., 1]
    turned = ops.stack([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return ops.reshape(turned, (-1, *x.shape[1:]))


@register
class RotaryAttention(layers.Layer):
    """Self-attention on (B, N, D) with rotary positions and RMS-normed queries and keys, no bias.

    Args:
        heads: number of heads.

    References:
        Su et al., RoFormer (arXiv 2104.09864).
    """

    def __init__(self, heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, input_shape: tuple) -> None:
        """Build the projections and norms."""
        width, policy = input_shape[-1], self.dtype_policy
        if width % self.heads or (width // self.heads) % 2:
            raise ValueError(
                f"width must divide by heads into an even size. Received: {width}, {self.heads}."
            )
        self.size = width // self.heads
        init = {"kernel_initializer": fan_in_normal(0.32), "use_bias": False, "dtype": policy}
        self.qkv, self.proj = TokenDense(3 * width, **init), TokenDense(width, **init)
        self.q_norm, self.k_norm = rms_norm(policy), rms_norm(policy)
        for layer, size in (
            (self.qkv, width),
            (self.proj, width),
            (self.q_norm, self.size),
            (self.k_norm, self.size),
        ):
            layer.build((None, size))

    def call(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Tokens (B, N, D) and `rotary_table` to tokens (B, N, D)."""
        tokens, width = x.shape[1:]
        qkv = ops.reshape(self.qkv(x), (-1, tokens, 3, self.heads, self.size))
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # (B, N, heads, size)
        q, k = (rotate(norm(a), cos, sin) for norm, a in ((self.q_norm, q), (self.k_norm, k)))
        return self.proj(ops.reshape(attend(q, k, v), (-1, tokens, width)))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "heads": self.heads}


@register
class SwiGLU(layers.Layer):
    """`down(silu(gate(x)) * up(x))`, no bias.

    Args:
        hidden: size of the hidden layer.

    References:
        Shazeer, GLU Variants Improve Transformer (arXiv 2002.05202).
    """

    def __init__(self, hidden: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, input_shape: tuple) -> None:
        """Build the three products."""
        width = input_shape[-1]
        init = {"kernel_initializer": fan_in_normal(0.32), "use_bias": False}
        init["dtype"] = self.dtype_policy
        self.gate, self.up = TokenDense(self.hidden, **init), TokenDense(self.hidden, **init)
        self.down = TokenDense(width, **init)
        self.gate.build((None, width))
        self.up.build((None, width))
        self.down.build((None, self.hidden))

    def call(self, x: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        return self.down(ops.silu(self.gate(x)) * self.up(x))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "hidden": self.hidden}


@register
class RotaryBlock(layers.Layer):
    """`x + g1 * attention(norm(x))`, then `x + g2 * swiglu(norm(x))`; gates (D,) start at zero.

    Args:
        heads: attention heads.
        mlp_ratio: hidden size of the SwiGLU over the width, rounded down.
    """

    def __init__(self, heads: int, *, mlp_ratio: float = 8 / 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.heads, self.mlp_ratio = heads, mlp_ratio

    def build(
        self, x_shape: tuple, cos_shape: tuple | None = None, sin_shape: tuple | None = None
    ) -> None:
        """Build the sub-layers for tokens (B, N, D)."""
        width, policy = x_shape[-1], self.dtype_policy
        self.norm1, self.norm2 = rms_norm(policy), rms_norm(policy)
        self.attention = RotaryAttention(self.heads, dtype=policy)
        self.mlp = SwiGLU(int(width * self.mlp_ratio), dtype=policy)
        for layer in (self.norm1, self.attention, self.norm2, self.mlp):
            layer.build(x_shape)
        self.attention_gate = self.add_weight((width,), "zeros", name="attention_gate")
        self.mlp_gate = self.add_weight((width,), "zeros", name="mlp_gate")

    def call(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Tokens (B, N, D) and `rotary_table` to tokens (B, N, D)."""
        x = x + self.attention(self.norm1(x), cos, sin) * self._gate(self.attention_gate)
        return x + self.mlp(self.norm2(x)) * self._gate(self.mlp_gate)

    def _gate(self, gate):
        return ops.cast(gate, self.compute_dtype)

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "heads": self.heads, "mlp_ratio": self.mlp_ratio}
