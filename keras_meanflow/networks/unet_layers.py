"""Layers of the U-Net: two embeddings of the pair (r, t), residual blocks, attention on images."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import keep_mask
from keras_meanflow.networks.layers import TokenDense, attend, sinusoids
from keras_meanflow.parts.part import register


class PairEmbedding(layers.Layer):
    """Embeds (r, t), and adds other embeddings, as a vector of `4 width` numbers in float32.

    Args:
        width: number of frequencies of each time, the U-Net's width in published settings.
    """

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", **kwargs}, autocast=False)
        self.width, self.units = width, 4 * width

    def _mlp(self, features):
        hidden = layers.Dense(self.units, "silu", dtype="float32")
        out = layers.Dense(self.units, dtype="float32")
        hidden.build((None, features))
        out.build((None, self.units))
        return hidden, out

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "width": self.width}


@register
class SinusoidPair(PairEmbedding):
    """Sinusoids of t and of t - r, concatenated, and one MLP for both: the U-Net of CIFAR-10.

    Args:
        width: number of frequencies of each time, from 1 down to 1 / 10000 rad.
        time_scale: factor between a time and its sinusoids (see `TimeEmbedding`).

    References:
        Gsunshine/py-meanflow `unet.py`, `PositionalEmbedding` of two times.
    """

    def __init__(self, width: int, *, time_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(width, **kwargs)
        self.time_scale = time_scale

    def build(self, input_shape: tuple | None = None) -> None:
        """Build the MLP."""
        self.hidden, self.out = self._mlp(4 * self.width)
        self.built = True

    def call(self, r: Tensor, t: Tensor, known: Tensor | None = None) -> Tensor:
        """Times (B,), and the sum `known` of other embeddings, (B, 4 width), to (B, 4 width)."""
        times = (self.time_scale * t, self.time_scale * (t - r))
        pair = ops.concatenate([sinusoids(s, 2 * self.width, shift=1) for s in times], axis=1)
        return self.out(self.hidden(pair if known is None else pair + known))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "time_scale": self.time_scale}


@register
class LogFourierPair(PairEmbedding):
    """Random Fourier features of `log t` and of `log(1 + t - r)`: NCSN++.

    Each has a separate MLP, and the two results are added. The frequencies are drawn once,
    `N(0, scale^2)`, and saved with the weights.

    Args:
        width: number of frequencies of each time.
        scale: standard deviation of the frequencies, in turns. It multiplies du/dt.

    References:
        liduojia1/MeanFlowSE `ncsnpp.py`; Song et al., score_sde `GaussianFourierProjection`.
    """

    def __init__(self, width: int, *, scale: float = 16.0, **kwargs: Any) -> None:
        super().__init__(width, **kwargs)
        self.scale = scale

    def build(self, input_shape: tuple | None = None) -> None:
        """Draw the frequencies, build the MLPs."""
        init = keras.initializers.RandomNormal(stddev=self.scale)
        weight = {"shape": (self.width,), "initializer": init, "trainable": False}
        self.t_frequencies = self.add_weight(name="t_frequencies", **weight)
        self.gap_frequencies = self.add_weight(name="gap_frequencies", **weight)
        self.t_hidden, self.t_out = self._mlp(2 * self.width)
        self.gap_hidden, self.gap_out = self._mlp(2 * self.width)
        self.built = True

    def call(self, r: Tensor, t: Tensor, known: Tensor | None = None) -> Tensor:
        """Times (B,), and the sum `known` of other embeddings, (B, 4 width), to (B, 4 width)."""
        level = _turns(ops.log(ops.maximum(t, 1e-4)), self.t_frequencies)
        gap = _turns(ops.log1p(t - r), self.gap_frequencies)
        pair = self.t_out(self.t_hidden(level)) + self.gap_out(self.gap_hidden(gap))
        return pair if known is None else pair + known

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "scale": self.scale}


def _turns(x, frequencies):
    """`[sin(2 pi x w), cos(2 pi x w)]`; the order of the products changes float32 results."""
    angle = ops.expand_dims(x, 1) * frequencies * 2.0 * math.pi
    return ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=1)


class GroupNorm(layers.Layer):
    """Group normalisation in float32, with 32 groups, or `channels // 4` if that is smaller.

    If this number does not divide the channels, the next smaller number that does.

    It first averages each channel, then the channels of a group. On a CPU under XLA this is six
    times as fast as `keras.layers.GroupNormalization`: there the inner axis has only 4 channels.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, autocast=False)

    def build(self, shape: tuple) -> None:
        """Build for images (B, H, W, C)."""
        channels = shape[-1]
        most = max(min(channels // 4, 32), 1)
        self.groups = next(n for n in range(most, 0, -1) if channels % n == 0)
        self.gamma = self.add_weight((channels,), "ones", name="gamma", dtype="float32")
        self.beta = self.add_weight((channels,), "zeros", name="beta", dtype="float32")

    def call(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        single = ops.cast(x, "float32")
        centred = single - self._mean(single)
        scale = self.gamma * ops.rsqrt(self._mean(ops.square(centred)) + 1e-6)
        return ops.cast(centred * scale + self.beta, x.dtype)

    def _mean(self, x):
        """(B, H, W, C) to the mean of each channel's group, (B, 1, 1, C)."""
        channels = x.shape[-1]
        parts = ops.reshape(ops.mean(x, axis=(1, 2)), (-1, self.groups, channels // self.groups))
        mean = ops.mean(parts, axis=2, keepdims=True) + ops.zeros_like(parts)
        return ops.reshape(mean, (-1, 1, 1, channels))


def group_norm(channels: int, policy: keras.DTypePolicy | str) -> GroupNorm:
    """A built group normalisation."""
    norm = GroupNorm(dtype=policy)
    norm.build((None, None, None, channels))
    return norm


def conv3x3(
    inputs: int,
    outputs: int,
    policy: keras.DTypePolicy | str,
    init: str | keras.initializers.Initializer = "glorot_uniform",
) -> layers.Layer:
    """A built 3x3 convolution, with zeros beyond the border."""
    conv = layers.Conv2D(
        outputs,
        3,
        padding="same",
        data_format="channels_last",
        kernel_initializer=init,
        dtype=policy,
    )
    conv.build((None, None, None, inputs))
    return conv


def dense(
    inputs: int,
    outputs: int,
    policy: keras.DTypePolicy | str,
    init: str | keras.initializers.Initializer = "glorot_uniform",
) -> layers.Layer:
    """A built dense layer on the last axis: on images a 1x1 convolution."""
    layer = TokenDense(outputs, kernel_initializer=init, dtype=policy)
    layer.build((None, inputs))
    return layer


class ImageAttention(layers.Layer):
    """Self-attention with one head over all pixels of an image, with the residual: `/ sqrt(2)`.

    The last projection starts at zero, so the layer starts as `x / sqrt(2)`.
    """

    def build(self, shape: tuple) -> None:
        """Build for images (B, H, W, C)."""
        channels, policy = shape[-1], self.dtype_policy
        small = keras.initializers.VarianceScaling(0.1, "fan_in", "uniform")
        self.norm = group_norm(channels, policy)
        self.qkv = dense(channels, 3 * channels, policy, small)
        self.proj = dense(channels, channels, policy, "zeros")

    def call(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        height, width, channels = x.shape[1:]
        qkv = ops.reshape(self.qkv(self.norm(x)), (-1, height * width, 1, 3 * channels))
        attended = attend(*ops.split(qkv, 3, axis=-1))  # (B, N, 1, C)
        out = self.proj(ops.reshape(attended, (-1, height, width, channels)))
        return (x + out) * math.sqrt(0.5)


class ResidualBlock(layers.Layer):
    """`(skip(x) + h) / sqrt(2)`: h is two normalised convolutions with the embedding in between.

    Args:
        channels: number of output channels.
        resample: `fir_up`, `fir_down` or None.
        attention: whether `ImageAttention` follows.
        dropout: share of the values before the second convolution that a mask drops.
        stream: number of the mask, one for each block.

    References:
        Song et al., score_sde `ResnetBlockBigGANpp`; NVlabs/edm `UNetBlock`.
    """

    def __init__(
        self,
        channels: int,
        *,
        resample: Callable | None = None,
        attention: bool = False,
        dropout: float = 0.0,
        stream: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.channels, self.resample, self.attends = channels, resample, attention
        self.dropout, self.stream = dropout, stream

    def build(self, x_shape: tuple, embedding_shape: tuple) -> None:
        """Build for images (B, H, W, C) and embeddings (B, E)."""
        inputs, outputs, policy = x_shape[-1], self.channels, self.dtype_policy
        self.norm0, self.norm1 = group_norm(inputs, policy), group_norm(outputs, policy)
        self.conv0 = conv3x3(inputs, outputs, policy)
        self.affine = dense(embedding_shape[-1], outputs, policy)
        self.conv1 = conv3x3(outputs, outputs, policy, "zeros")
        same = inputs == outputs and self.resample is None
        self.skip = None if same else dense(inputs, outputs, policy)
        if self.attends:
            self.attention = ImageAttention(dtype=policy)
            self.attention.build((None, None, None, outputs))

    def call(self, x: Tensor, embedding: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, H, W, C) and the embedding (B, E) after its silu to (B, H', W', channels).

        `keys` (B, 2) determine the dropout mask; without them nothing is dropped.
        """
        h = ops.silu(self.norm0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv0(h) + self.affine(embedding)[:, None, None]
        h = ops.silu(self.norm1(h))
        if keys is not None:
            kept = keep_mask(keys, self.stream, h.shape, self.dropout)
            h = ops.where(kept, h / (1.0 - self.dropout), 0.0)
        h = self.conv1(h)
        x = x if self.skip is None else self.skip(x)
        x = (x + h) * math.sqrt(0.5)
        return self.attention(x) if self.attends else x
