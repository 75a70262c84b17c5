"""TCN: a temporal convolutional network on a spectrogram whose bins are channels."""

import math
from typing import Any

import keras
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.networks.layers import TokenDense, modulate, plain_norm
from keras_meanflow.networks.unet_layers import SinusoidPair
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes

_LEAST = 1e-6  # of a squared modulus
_CYCLE = 4  # after so many blocks the spacing starts again at 1


@register
class TCN(Network):
    """Frames of a spectrogram as tokens; blocks of a convolution along time and an MLP per frame.

    All bins of a frame are its channels, so nearly all work is in matrix products. On a CPU this
    processes many times as much audio per second as a `UNet`. The condition y is the noisy
    spectrogram. The network also gets the logarithm of its moduli, which a linear map cannot
    compute. The convolutions are depthwise, with taps 1, 2, 4 and 8 frames apart, then 1 again. The
    norms before them and before the MLPs are shifted and scaled by the times, as in a `DiT`.

    Args:
        bins, frames: of z and of the condition, (bins, frames, 2) each.
        width: hidden channels of a frame.
        depth: number of blocks.
        taps: frames that a convolution sees, an odd number.
        mlp_ratio: hidden size of the MLPs over the width.

    Raises:
        ValueError: for an even number of taps.

    Example:
        >>> u = TCN(bins=128, frames=64)(z, r, t, noisy)  # z and noisy (B, 128, 64, 2)

    References:
        Luo and Mesgarani, Conv-TasNet (arXiv 1809.07454), section II-D, for the convolutions.
    """

    def __init__(
        self,
        *,
        bins: int,
        frames: int,
        width: int = 256,
        depth: int = 8,
        taps: int = 5,
        mlp_ratio: float = 2.0,
        **kwargs: Any,
    ) -> None:
        check_sizes(bins=bins, frames=frames, width=width, depth=depth, taps=taps)
        if taps % 2 == 0:
            raise ValueError(f"taps is an odd number. Received: {taps}.")
        shape = (bins, frames, 2)
        super().__init__(data_shape=shape, condition_shape=shape, **kwargs)
        self.bins, self.frames, self.width, self.depth = bins, frames, width, depth
        self.taps, self.mlp_ratio = taps, mlp_ratio
        policy = self.dtype_policy
        self.times = SinusoidPair(width // 4)
        self.times.build()
        self.enter = TokenDense(width, dtype=policy, name="enter")
        self.enter.build((None, 5 * bins))
        self.blocks = [
            TCNBlock(taps, spacing=2 ** (i % _CYCLE), mlp_ratio=mlp_ratio, dtype=policy)
            for i in range(depth)
        ]
        for block in self.blocks:
            block.build((None, frames, width), (None, width))
        self.leave = TokenDense(2 * bins, kernel_initializer="zeros", dtype="float32", name="leave")
        self.leave.build((None, width))
        self.built = True

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity, float32 of the shape of `z`."""
        power = ops.sum(ops.square(condition), axis=3, keepdims=True)
        moduli = 1.0 + ops.log10(power + _LEAST) / 3.0  # about -1 to 1
        heard = ops.concatenate([z, condition, moduli], axis=3)
        x = ops.reshape(ops.transpose(heard, (0, 2, 1, 3)), (-1, self.frames, 5 * self.bins))
        x = self.enter(ops.cast(x, self.compute_dtype))
        c = ops.cast(self.times(r, t), self.compute_dtype)
        for block in self.blocks:
            x = block(x, c)
        x = self.leave(ops.cast(x, "float32"))
        return ops.transpose(ops.reshape(x, (-1, self.frames, self.bins, 2)), (0, 2, 1, 3))

    def get_config(self) -> dict:
        """The arguments."""
        names = "bins frames width depth taps mlp_ratio".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@register
class TCNBlock(layers.Layer):
    """`x + conv(norm(x))`, then `x + mlp(norm(x))`; both norms depend on the times.

    Args:
        taps: frames that the convolution sees, an odd number.
        spacing: frames between two taps.
        mlp_ratio: hidden size of the MLP over the width.
    """

    def __init__(
        self, taps: int, *, spacing: int = 1, mlp_ratio: float = 2.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.taps, self.spacing, self.mlp_ratio = taps, spacing, mlp_ratio

    def build(self, x_shape: tuple, c_shape: tuple | None = None) -> None:
        """Build the sub-layers for frames (B, T, D)."""
        width, policy = x_shape[-1], self.dtype_policy
        hidden = int(width * self.mlp_ratio)
        self.norm = plain_norm(policy)
        self.fc1 = TokenDense(hidden, dtype=policy, name="fc1")
        self.fc2 = TokenDense(width, dtype=policy, name="fc2")
        self.modulation = layers.Dense(
            4 * width, kernel_initializer="zeros", dtype=policy, name="modulation"
        )
        limit = 1.0 / math.sqrt(self.taps)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.taps, width),
            initializer=keras.initializers.RandomUniform(-limit, limit),
        )
        self.norm.build(x_shape)
        self.fc1.build((None, width))
        self.fc2.build((None, hidden))
        self.modulation.build((None, width))

    def call(self, x: Tensor, c: Tensor) -> Tensor:
        """Frames (B, T, D) and times (B, D) to frames (B, T, D)."""
        shift_c, scale_c, shift_m, scale_m = ops.split(self.modulation(ops.silu(c)), 4, axis=1)
        x = x + self._convolve(modulate(self.norm(x), shift_c, scale_c))
        hidden = ops.gelu(self.fc1(modulate(self.norm(x), shift_m, scale_m)), approximate=True)
        return x + self.fc2(hidden)

    def _convolve(self, x):
        """The depthwise convolution as a sum of shifted products, which all have a tangent."""
        frames, half = x.shape[1], self.taps // 2 * self.spacing
        padded = ops.pad(x, ((0, 0), (half, half), (0, 0)))
        starts = range(0, self.taps * self.spacing, self.spacing)
        shifted = [padded[:, start : start + frames] for start in starts]
        return sum(part * self.kernel[i] for i, part in enumerate(shifted))

    def get_config(self) -> dict:
        """The arguments."""
        return {
            **super().get_config(),
            "taps": self.taps,
            "spacing": self.spacing,
            "mlp_ratio": self.mlp_ratio,
        }
