"""BandUNet: a U-Net on a spectrogram whose neighbouring bins are channels."""

import math

import numpy as np
from keras import ops

from keras_meanflow.backend import constant
from keras_meanflow.configurable import register
from keras_meanflow.networks.base import Network
from keras_meanflow.networks.unet import UNet

_WAVES = 4  # channels that say where on the axis of frequency a band lies
_LEAST = 1e-8  # square of a modulus, for a finite gradient


@register
class BandUNet(Network):
    """A `UNet` that has bands of bins as channels, and is told the moduli of y and the height.

    y is the condition. A spectrogram of real pairs has few channels and many places, on which
    convolutions are slow on a CPU; bins as channels leave `band` times fewer places. A convolution
    is the same at all frequencies, and learns only slowly to take the modulus of a complex number:
    both are told, the frequency by cosines.

    Args:
        bins, frames: of z and of the condition, (bins, frames, 2) each.
        width, multipliers, blocks: see `UNet`. bins / band and frames halve at each level.
        band: bins that become channels.

    Raises:
        ValueError: for a band that does not divide the bins, or sides that do not halve.

    Example:
        >>> network = BandUNet(bins=128, frames=64, width=32, multipliers=(1, 2, 4))
        >>> u = network(z, r, t, noisy)  # z and noisy (B, 128, 64, 2)
    """

    def __init__(self, *, bins, frames, width, multipliers, blocks=1, band=4, **kwargs):
        if bins % band:
            raise ValueError(f"band must divide the bins. Received: {band} and {bins}.")
        shape = (bins, frames, 2)
        super().__init__(data_shape=shape, condition_shape=shape, **kwargs)
        self.bins, self.frames, self.band = bins, frames, band
        self.width, self.multipliers, self.blocks = width, tuple(multipliers), blocks
        self.unet = UNet(
            image_size=(bins // band, frames),
            channels=2 * band,
            context_channels=3 * band + _WAVES,
            width=width,
            multipliers=self.multipliers,
            blocks=blocks,
            attention_sizes=(),
            input_skips=True,
            output_skips=True,
            dtype=self.dtype_policy,
        )
        height = math.pi * np.arange(bins // band) / (bins // band)
        waves = np.stack([np.cos(k * height) for k in range(1, _WAVES + 1)], axis=-1)
        self._waves = waves[None, :, None].astype("float32")
        self.built = True

    def call(self, z, r, t, condition=None):
        """The average velocity, float32 of the shape of `z`."""
        modulus = ops.sqrt(ops.sum(ops.square(condition), axis=3, keepdims=True) + _LEAST)
        heard = self._bands(ops.concatenate([condition, modulus], axis=3))
        height = ops.zeros_like(heard[..., :1]) + constant(self._waves, heard)
        context = ops.concatenate([heard, height], axis=3)
        return self._bins(self.unet(self._bands(z), r, t, context))

    def _bands(self, x):
        """(B, bins, frames, C) to (B, bins / band, frames, band C)."""
        _, bins, frames, channels = x.shape
        x = ops.reshape(x, (-1, bins // self.band, self.band, frames, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4))
        return ops.reshape(x, (-1, bins // self.band, frames, self.band * channels))

    def _bins(self, x):
        """The way back."""
        _, bands, frames, channels = x.shape
        x = ops.reshape(x, (-1, bands, frames, self.band, channels // self.band))
        x = ops.transpose(x, (0, 1, 3, 2, 4))
        return ops.reshape(x, (-1, bands * self.band, frames, channels // self.band))

    def get_config(self):
        """The arguments."""
        names = "bins frames width multipliers blocks band"
        return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}
