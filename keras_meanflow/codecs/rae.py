"""Representation autoencoder: a frozen network's tokens as latents, and a decoder for them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.normalisation import Normalisation
from keras_meanflow.features.dinov2 import DEVIATION, MEAN
from keras_meanflow.features.resize import TorchBicubic
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.torch_weights import load_torch, named
from keras_meanflow.networks.layers import sincos_positions
from keras_meanflow.networks.patches import unpatchify
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes

DECODERS = {  # width, depth, heads, hidden
    "ViTB": (768, 12, 12, 3072),
    "ViTL": (1024, 24, 16, 4096),
    "ViTXL": (1152, 28, 16, 4096),
}
EPSILON = 1e-5  # added to the variances of the statistics
TOKEN_EPSILON, DECODER_EPSILON = 1e-6, 1e-12  # of the layer norms of tokens and decoder
FIXED = ("trainable_cls_token", "decoder_pos_embed")


@register
class RAE(Codec):
    """Latents are the patch tokens of a frozen encoder, with mean 0 and std 1 at each position.

    Pixels are resized to the encoder's size and standardised. The encoder's tokens go through a
    layer norm without parameters and are reshaped to a grid. Then they are normalised by the mean
    and variance of each channel at each position (`fit_statistics` or `load_statistics`). The
    decoder is a vision transformer with a class token. It starts untrained: `load_decoder` loads
    published weights, `fit_decoder` trains.

    Args:
        encoder: a `keras.Model` from standardised images (n, S, S, depth) to the tokens (n, N, D)
            of a square grid, without a class token. It becomes frozen.
        image_size: side of the decoded images; a multiple of the grid's side.
        input_size: S.
        decoder: width, depth, heads and hidden size, or a name: ViTB, ViTL, ViTXL.
        mean, deviation: by channel, of the pixels in [0, 1] that the encoder was trained on.
        normalisation: of latents; default none.

    Raises:
        ValueError: for tokens that make no square grid, or an image size that is no multiple of
            its side.

    Example:
        >>> tokens = dinov2_tokens(network)  # features.dinov2, with its weights
        >>> codec = RAE(tokens, image_size=256, input_size=224)
        >>> codec.load_decoder("ViTXL_n08/model.pt")
        >>> codec.load_statistics("stat.pt")
        >>> codec.encode_pixels(x).shape  # x (1, 256, 256, 3) in [-1, 1]
        (1, 1, 16, 16, 768)

    References:
        Zheng et al., Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690);
        bytetriper/RAE `src/stage1`.
    """

    def __init__(
        self,
        encoder: keras.Model,
        *,
        image_size: int,
        input_size: int,
        decoder: str | Sequence[int] = "ViTXL",
        mean: Sequence[float] = MEAN,
        deviation: Sequence[float] = DEVIATION,
        normalisation: Normalisation | None = None,
        name: str | None = None,
    ):
        sizes = DECODERS[decoder] if isinstance(decoder, str) else tuple(decoder)
        check_sizes(decoder=sizes)
        if sizes[0] % sizes[2]:
            raise ValueError(f"decoder's width must divide by its heads. Received: {sizes}.")
        pixels = np.array(mean, "float32"), np.array(deviation, "float32")
        depth = len(pixels[0])
        tokens = encoder.compute_output_spec(
            keras.KerasTensor((1, input_size, input_size, depth))
        ).shape
        side = math.isqrt(tokens[1])
        if side**2 != tokens[1] or image_size % side:
            raise ValueError(
                "The encoder's tokens must make a square grid that divides the image size. "
                f"Received: {tokens[1]} tokens, image size {image_size}."
            )
        encoder.trainable = False
        statistics = Statistics()
        statistics.build((None, side, side, tokens[2]))
        resize = TorchBicubic(input_size) if image_size != input_size else None
        super().__init__(
            TokenEncoder(encoder, statistics, pixels, resize, name="encoder"),
            ViTDecoder(sizes, statistics, pixels, image_size // side, name="decoder"),
            factor=image_size // side,
            moments=1,
            normalisation=normalisation,
            name=name,
        )
        self._arguments = {
            "image_size": image_size,
            "input_size": input_size,
            "decoder": list(sizes),
            "mean": [float(m) for m in mean],
            "deviation": [float(d) for d in deviation],
        }

    def load_decoder(self, path: str | os.PathLike) -> None:
        """Fill the decoder from a published state dict, such as `ViTXL_n08/model.pt`.

        Raises:
            ValueError: for weights that are missing, unknown or of another size.
        """
        state = dict(read_weights(path))
        class_token, positions = (state.pop(name, None) for name in FIXED)
        if class_token is None:
            raise ValueError(f"{path} must hold a decoder's weights. Missing: {FIXED[0]}.")
        expected = (1, 1 + self.decoder.rows * self.decoder.columns, self.decoder.width)
        if positions is not None and positions.shape != expected:
            raise ValueError(
                f"{path} is for another size: its positions are {positions.shape}. The codec's are "
                f"{expected}."
            )
        load_torch(self.decoder, state, path)
        self.decoder.class_token.assign(class_token)

    def load_statistics(self, path: str | os.PathLike) -> None:
        """Read mean and variance of each position from a published `stat.pt`.

        Raises:
            ValueError: for statistics of another shape.
        """
        state = read_weights(path)
        arrays = [np.moveaxis(np.asarray(state[name]), 0, -1) for name in ("mean", "var")]
        self.decoder.statistics.set(*arrays)

    def fit_statistics(self, source: Any, batch_size: int = 64) -> None:
        """Measure mean and variance of each position over a data source, in two passes."""
        starts = range(0, len(source), batch_size)

        def tokens():
            for start in starts:
                x, _ = source.take(np.arange(start, min(start + batch_size, len(source))))
                yield ops.convert_to_numpy(self.encoder.tokens(ops.convert_to_tensor(x)))

        mean = sum(part.astype("float64").sum(axis=0) for part in tokens()) / len(source)
        variance = sum(((part - mean) ** 2).sum(axis=0) for part in tokens()) / len(source)
        self.decoder.statistics.set(mean, variance)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        encoder = keras.saving.serialize_keras_object(self.encoder.network)
        return {"encoder": encoder, **self._arguments, **super().get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The codec with these arguments."""
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        return super().from_config({**config, "encoder": encoder})


class Statistics(layers.Layer):
    """Fixed mean and variance of each channel at each position: `(z - mean) / sqrt(var + 1e-5)`."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """A mean and a variance for each number of a latent."""
        self.mean = self.add_weight(shape[1:], "zeros", trainable=False, name="mean")
        self.variance = self.add_weight(shape[1:], "ones", trainable=False, name="variance")

    def set(self, mean: np.ndarray, variance: np.ndarray) -> None:
        """Assign mean and variance.

        Raises:
            ValueError: for another shape than that of the latents.
        """
        if np.shape(mean) != tuple(self.mean.shape):
            raise ValueError(
                "Statistics must have the shape (h, w, channels) of the latents, "
                f"{tuple(self.mean.shape)}. Received: {np.shape(mean)}."
            )
        self.mean.assign(mean)
        self.variance.assign(variance)

    def call(self, z: Any) -> Any:
        """Tokens to latents."""
        return (z - self.mean) / ops.sqrt(self.variance + EPSILON)

    def inverse(self, z: Any) -> Any:
        """Latents to tokens."""
        return z * ops.sqrt(self.variance + EPSILON) + self.mean


class TokenEncoder(keras.Model):
    """Pixels in [-1, 1] to normalised tokens on a grid."""

    def __init__(
        self,
        network: keras.Model,
        statistics: Statistics,
        pixels: tuple[np.ndarray, np.ndarray],
        resize: TorchBicubic | None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.network, self.statistics, self.resize = network, statistics, resize
        self.pixels = pixels
        self.norm = layers.LayerNormalization(epsilon=TOKEN_EPSILON, center=False, scale=False)
        self.norm.build((None, None, statistics.mean.shape[-1]))
        self.channels, self.built = len(pixels[0]), True

    def call(self, x: Any) -> Any:
        """(n, h, w, depth) to (n, rows, columns, channels)."""
        return self.statistics(self.tokens(x))

    def tokens(self, x: Any) -> Any:
        """The same, before the statistics are applied."""
        x = 0.5 * (x + 1.0)
        if self.resize is not None:
            x = self.resize(x)
        mean, deviation = (ops.convert_to_tensor(a) for a in self.pixels)
        tokens = self.norm(self.network((x - mean) / deviation))
        return ops.reshape(tokens, (-1, *self.statistics.mean.shape))


class ViTDecoder(keras.Model):
    """Normalised tokens on a grid to pixels, about [-1, 1]: the decoder of a ViT-MAE.

    A class token, initialised with zeros, is put before the embedded tokens and dropped at the end.
    The positions are a fixed table, zero for the class token.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int, int],
        statistics: Statistics,
        pixels: tuple[np.ndarray, np.ndarray],
        patch_size: int,
        name: str | None = None,
    ):
        super().__init__(name=name)
        width, depth, heads, hidden = sizes
        self.width, self.patch_size, self.pixels = width, patch_size, pixels
        self.statistics = statistics
        self.rows, self.columns, self.channels = statistics.mean.shape
        self.class_token = self.add_weight((1, 1, width), "zeros", name="class_token")
        self.embed = named(layers.Dense(width), "decoder_embed")
        self.blocks = [DecoderBlock(heads, hidden, f"decoder_layers.{i}") for i in range(depth)]
        self.norm = _norm("decoder_norm")
        self.out = named(layers.Dense(patch_size**2 * len(pixels[0])), "decoder_pred")
        self.embed.build((None, None, self.channels))
        for layer in (*self.blocks, self.norm, self.out):
            layer.build((None, None, width))
        self.built = True

    def call(self, z: Any) -> Any:
        """(n, rows, columns, channels) to (n, h, w, depth)."""
        tokens = ops.reshape(
            self.statistics.inverse(z), (-1, self.rows * self.columns, self.channels)
        )
        positions = sincos_positions(self.rows, self.columns, self.width)
        x = self.embed(tokens) + ops.convert_to_tensor(positions)
        class_token = ops.broadcast_to(self.class_token, (ops.shape(x)[0], 1, self.width))
        x = ops.concatenate([class_token, x], axis=1)
        for block in self.blocks:
            x = block(x)
        patches = self.out(self.norm(x))[:, 1:]
        mean, deviation = (ops.convert_to_tensor(a) for a in self.pixels)
        x = unpatchify(patches, (self.rows, self.columns), self.patch_size)
        return 2.0 * (x * deviation + mean) - 1.0


class DecoderBlock(layers.Layer):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, with the exact gelu."""

    def __init__(self, heads: int, hidden: int, torch_name: str):
        super().__init__()
        self.heads, self.hidden, self.torch_path = heads, hidden, torch_name

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Build the layers."""
        at, width = self.torch_path, shape[-1]
        self.norm1, self.norm2 = (_norm(f"{at}.layernorm_{side}") for side in ("before", "after"))
        self.query, self.key, self.value = (
            named(layers.Dense(width), f"{at}.attention.attention.{part}")
            for part in ("query", "key", "value")
        )
        self.proj = named(layers.Dense(width), f"{at}.attention.output.dense")
        self.fc1 = named(layers.Dense(self.hidden), f"{at}.intermediate.dense")
        self.fc2 = named(layers.Dense(width), f"{at}.output.dense")
        for part in (self.norm1, self.norm2, self.query, self.key, self.value, self.proj, self.fc1):
            part.build(shape)
        self.fc2.build((*shape[:-1], self.hidden))

    def call(self, x: Any) -> Any:
        """(n, N, D) to the same."""
        y = self.norm1(x)
        split = (-1, x.shape[1], self.heads, x.shape[2] // self.heads)
        q, k, v = (ops.reshape(part(y), split) for part in (self.query, self.key, self.value))
        mixed = ops.reshape(ops.dot_product_attention(q, k, v), (-1, *x.shape[1:]))
        x = x + self.proj(mixed)
        return x + self.fc2(ops.gelu(self.fc1(self.norm2(x)), approximate=False))


def _norm(torch_name):
    return named(layers.LayerNormalization(epsilon=DECODER_EPSILON), torch_name)


def dinov2_tokens(network: keras.Model) -> keras.Model:
    """A `features.dinov2.dinov2` network up to the patch tokens before its last norm.

    Example:
        >>> codec = RAE(dinov2_tokens(dinov2(SIZES["b"])), image_size=256, input_size=224)
    """
    return keras.Model(network.input, network.get_layer("norm").input[:, 1:], name="tokens")
