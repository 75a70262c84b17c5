"""The autoencoder of Stable Diffusion, as the latent MeanFlow models use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras import layers, ops

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.normalisation import SD_SCALE, Normalisation
from keras_meanflow.codecs.stack import Stack
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.torch_weights import conv, load_torch, named
from keras_meanflow.parts.part import register

EPSILON = 1e-6  # in every group norm
LOG_VARIANCE = (-30.0, 20.0)  # the encoder's log variance is clipped to this range
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@register
class SDVAE(Codec):
    """The KL autoencoder of Stable Diffusion 1 and 2: 256x256 pixels to 32x32x4, mean and std.

    Its weights are zero until `load` reads published ones: `sd-vae-ft-mse` (MeanFlow, improved
    MeanFlow) or `sd-vae-ft-ema` (DiT, SiT). 84 M parameters.

    Args:
        widths: channels at each resolution.
        blocks: residual blocks at each resolution of the encoder; the decoder has one more.
        latent_channels: channels of a latent.
        groups: number of groups in each group norm.
        normalisation: of latents; default the factor 0.18215.

    Example:

    >>> codec = SDVAE.load("sd-vae-ft-mse")  # a folder or a file in diffusers' format
    >>> raw = codec.encode_pixels(np.zeros((1, 256, 256, 3)))
    >>> raw.shape, codec.decode(codec.encode_latents(raw)).shape
    ((1, 2, 32, 32, 4), (1, 256, 256, 3))

    References:
        Rombach et al. (2022), arXiv:2112.10752. The layers follow diffusers' `AutoencoderKL`.
    """

    def __init__(
        self,
        widths: tuple[int, ...] = (128, 256, 512, 512),
        *,
        blocks: int = 2,
        latent_channels: int = 4,
        groups: int = 32,
        normalisation: Normalisation | None = SD_SCALE,
        name: str | None = None,
    ):
        super().__init__(
            Stack(_encoder(widths, blocks, latent_channels, groups), 3, name="encoder"),
            Stack(
                _decoder(widths, blocks + 1, latent_channels, groups),
                latent_channels,
                name="decoder",
            ),
            factor=2 ** (len(widths) - 1),
            moments=2,
            normalisation=normalisation,
            name=name,
        )
        self._sizes = {
            "widths": list(widths),
            "blocks": blocks,
            "latent_channels": latent_channels,
            "groups": groups,
        }

    @classmethod
    def load(cls, path: str | Path, **sizes: Any) -> SDVAE:
        """Returns the codec with weights in diffusers' format.

        Args:
            path: a `.safetensors`, `.bin` or `.pth` file, or the folder that holds
                `diffusion_pytorch_model.safetensors` or `.bin`.
            **sizes: arguments of the constructor.

        Raises:
            ValueError: for a folder without such a file, or weights that are missing, unknown or
                of another size.
        """
        path, codec = _file(Path(path)), cls(**sizes)
        state = {_new_name(name): array for name, array in read_weights(path).items()}
        load_torch(codec, state, path)
        return codec

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {**self._sizes, **super().get_config()}


def _file(path):
    if path.is_file():
        return path
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
        raise ValueError(f"{path} must be a file of weights, or a folder with {FILES[0]}.")
    return found[0]


def _new_name(name):
    """The current name of an attention layer in diffusers, from the old or the current one."""
    prefix, found, rest = name.rpartition(".attentions.0.")
    layer, _, kind = rest.rpartition(".")
    return f"{prefix}{found}{OLD_NAMES[layer]}.{kind}" if layer in OLD_NAMES else name


def _encoder(widths, blocks, latent_channels, groups):
    parts = [conv(widths[0], "encoder.conv_in")]
    before = widths[0]
    for i, width in enumerate(widths):
        at = f"encoder.down_blocks.{i}"
        for j in range(blocks):
            parts.append(ResidualBlock(before, width, groups, f"{at}.resnets.{j}"))
            before = width
        if i < len(widths) - 1:
            parts.append(layers.ZeroPadding2D(((0, 1), (0, 1))))
            parts.append(conv(width, f"{at}.downsamplers.0.conv", strides=2))
    parts += _middle(before, groups, "encoder.mid_block")
    parts += _last(2 * latent_channels, groups, "encoder")
    return [*parts, conv(2 * latent_channels, "quant_conv", kernel=1), MeanAndStd()]


def _decoder(widths, blocks, latent_channels, groups):
    before = widths[-1]
    parts = [
        conv(latent_channels, "post_quant_conv", kernel=1),
        conv(before, "decoder.conv_in"),
        *_middle(before, groups, "decoder.mid_block"),
    ]
    for i, width in enumerate(reversed(widths)):
        at = f"decoder.up_blocks.{i}"
        for j in range(blocks):
            parts.append(ResidualBlock(before, width, groups, f"{at}.resnets.{j}"))
            before = width
        if i < len(widths) - 1:
            parts += [layers.UpSampling2D(2), conv(width, f"{at}.upsamplers.0.conv")]
    return [*parts, *_last(3, groups, "decoder")]


def _middle(width, groups, at):
    return [
        ResidualBlock(width, width, groups, f"{at}.resnets.0"),
        SpatialAttention(width, groups, f"{at}.attentions.0"),
        ResidualBlock(width, width, groups, f"{at}.resnets.1"),
    ]


def _last(channels, groups, at):
    norm, last = _norm(groups, f"{at}.conv_norm_out"), conv(channels, f"{at}.conv_out")
    return [norm, layers.Activation("silu"), last]


def _norm(groups, name):
    return named(layers.GroupNormalization(groups, epsilon=EPSILON), name)


def _dense(width, name):
    return named(layers.Dense(width, kernel_initializer="zeros"), name)


class ResidualBlock(layers.Layer):
    """`skip(x) + conv(silu(norm(conv(silu(norm(x))))))`; `skip` is x or changes its width."""

    def __init__(self, before: int, width: int, groups: int, torch_name: str):
        super().__init__()
        self.width = width
        self.norm1, self.norm2 = (_norm(groups, f"{torch_name}.norm{i}") for i in (1, 2))
        self.conv1, self.conv2 = (conv(width, f"{torch_name}.conv{i}") for i in (1, 2))
        self.skip = layers.Identity()
        if before != width:
            self.skip = conv(width, f"{torch_name}.conv_shortcut", kernel=1)

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Build the layers."""
        inner = (*shape[:-1], self.width)
        for layer, at in (
            (self.norm1, shape),
            (self.conv1, shape),
            (self.norm2, inner),
            (self.conv2, inner),
            (self.skip, shape),
        ):
            layer.build(at)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape (n, h, w, width)."""
        return (*shape[:-1], self.width)

    def call(self, x: Any) -> Any:
        """(n, h, w, before) to (n, h, w, width)."""
        h = self.conv1(ops.silu(self.norm1(x)))
        h = self.conv2(ops.silu(self.norm2(h)))
        return self.skip(x) + h


class SpatialAttention(layers.Layer):
    """`x + attention(norm(x))`, with one head over all positions."""

    def __init__(self, width: int, groups: int, torch_name: str):
        super().__init__()
        self.norm = _norm(groups, f"{torch_name}.group_norm")
        names = ("to_q", "to_k", "to_v", "to_out.0")
        self.projections = [_dense(width, f"{torch_name}.{name}") for name in names]

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Build the layers."""
        for layer in (self.norm, *self.projections):
            layer.build(shape)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The same shape."""
        return shape

    def call(self, x: Any) -> Any:
        """(n, h, w, width) to the same."""
        shape = ops.shape(x)
        normed = self.norm(x)
        *inputs, output = self.projections
        tokens = (shape[0], shape[1] * shape[2], 1, shape[3])  # one head
        q, k, v = (ops.reshape(layer(normed), tokens) for layer in inputs)
        return x + output(ops.reshape(ops.dot_product_attention(q, k, v), shape))


class MeanAndStd(layers.Layer):
    """Mean and log variance, side by side in the channels, become mean and standard deviation."""

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The same shape."""
        return shape

    def call(self, x: Any) -> Any:
        """(n, h, w, 2 channels) to the same."""
        mean, log_variance = ops.split(x, 2, axis=-1)
        std = ops.exp(0.5 * ops.clip(log_variance, *LOG_VARIANCE))
        return ops.concatenate([mean, std], axis=-1)
