"""A tiny trained autoencoder with the latents of FLUX.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras import layers, ops

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.normalisation import Normalisation
from keras_meanflow.codecs.stack import Stack
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.torch_weights import conv, load_torch, named
from keras_meanflow.parts.part import register

WIDTH = 64
CHANNELS = 32
LIMIT = 3.0  # the decoder limits latents softly to this size
FILES = ("taef2_encoder.pth", "taef2_decoder.pth")


@register
class TAEF2(Codec):
    """A tiny autoencoder for the latents of FLUX.2: 256x256 pixels to 32x32x32.

    Its weights are zero until `load` reads the published ones. Encoder and decoder have 1.34 M
    parameters each. On ImageNet images of 256 pixels the reconstruction has about 29 dB. It is for
    small experiments on real images.

    Args:
        normalisation: of latents; default none. Over ImageNet images of 256 pixels the latents
            have a mean of 0.03 and a std of 0.85.

    Example:

    >>> codec = TAEF2.load("taef2")  # the folder of the two files
    >>> codec.encode_pixels(np.zeros((1, 256, 256, 3))).shape
    (1, 1, 32, 32, 32)

    References:
        O. Boer Bohan, madebyollin/taesd, MIT licence.
    """

    def __init__(self, *, normalisation: Normalisation | None = None, name: str | None = None):
        super().__init__(
            Stack(_encoder(), 3, name="encoder"),
            Stack(_decoder(), CHANNELS, name="decoder"),
            factor=8,
            moments=1,
            normalisation=normalisation,
            name=name,
        )

    @classmethod
    def load(cls, path: str | Path) -> TAEF2:
        """Returns the codec with the weights of a folder that holds `taef2_{encoder,decoder}.pth`.

        Raises:
            ValueError: for a folder without them, or weights that are missing, unknown or of
                another size.
        """
        codec = cls()
        for model, name in zip((codec.encoder, codec.decoder), FILES, strict=True):
            file = Path(path) / name
            if not file.is_file():
                raise ValueError(f"{path} must be a folder with {' and '.join(FILES)}.")
            load_torch(model, read_weights(file), file)
        return codec


def _encoder():
    parts = [layers.Rescaling(0.5, 0.5), conv(WIDTH, "0"), Block("1")]
    for first, pooled in ((2, False), (6, False), (10, True)):
        parts.append(layers.ZeroPadding2D(1))
        parts.append(conv(WIDTH, f"{first}", strides=2, use_bias=False))
        parts += [Block(f"{first + i}", pooled=pooled) for i in (1, 2, 3)]
    return [*parts, conv(CHANNELS, "14")]


def _decoder():
    parts = [SoftLimit(), conv(WIDTH, "1"), layers.ReLU()]
    for first, pooled in ((3, True), (8, False), (13, False)):
        parts += [Block(f"{first + i}", pooled=pooled) for i in (0, 1, 2)]
        parts += [layers.UpSampling2D(2), conv(WIDTH, f"{first + 4}", use_bias=False)]
    return [*parts, Block("18"), conv(3, "19"), layers.Rescaling(2.0, -1.0)]


class Block(layers.Layer):
    """`relu(h + conv(relu(conv(relu(conv(h))))))` with h = x, or h = `x + pool(x)` if pooled."""

    def __init__(self, torch_name: str, *, pooled: bool = False):
        super().__init__()
        self.convs = [conv(WIDTH, f"{torch_name}.conv.{i}") for i in (0, 2, 4)]
        self.pool = []
        if pooled:
            at = f"{torch_name}.pool"
            self.pool = [
                conv(4 * WIDTH, f"{at}.0", kernel=1, use_bias=False),
                named(layers.GroupNormalization(4, epsilon=1e-5), f"{at}.1"),
                layers.ReLU(),
                conv(WIDTH, f"{at}.3", kernel=1, use_bias=False),
            ]

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Build the layers."""
        for layer in self.convs:
            layer.build(shape)
        at = shape
        for layer in self.pool:
            layer.build(at)
            at = layer.compute_output_shape(at)

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The same shape."""
        return shape

    def call(self, x: Any) -> Any:
        """(n, h, w, WIDTH) to the same."""
        if self.pool:
            pooled = x
            for layer in self.pool:
                pooled = layer(pooled)
            x = x + pooled
        first, second, third = self.convs
        return ops.relu(third(ops.relu(second(ops.relu(first(x))))) + x)


class SoftLimit(layers.Layer):
    """`LIMIT tanh(x / LIMIT)`."""

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The same shape."""
        return shape

    def call(self, x: Any) -> Any:
        """Any shape to the same."""
        return LIMIT * ops.tanh(x / LIMIT)
