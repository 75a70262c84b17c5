"""Half and double the size of images with the filter [1, 3, 3, 1], zeros beyond the border.

They are sums of shifted slices, which on a CPU are cheaper than depthwise convolutions, and which
are linear in forward mode.
"""

import math

from keras import ops

from keras_meanflow.backend import Tensor


def fir_down(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, H/2, W/2, C): `y_i = (x_{2i-1} + 3 x_2i + 3 x_{2i+1} + x_{2i+2}) / 8`.

    References:
        Song et al., score_sde `downsample_2d`, after StyleGAN2's `upfirdn2d`.
    """
    for axis in (1, 2):
        even, odd = _every_second(x, axis, 0), _every_second(x, axis, 1)
        x = 0.375 * (even + odd) + 0.125 * (_before(odd, axis) + _after(even, axis))
    return x


def fir_up(x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, 2H, 2W, C): `y_2i = (x_{i-1} + 3 x_i) / 4`, `y_{2i+1}` with `x_{i+1}`.

    References:
        Song et al., score_sde `upsample_2d`, after StyleGAN2's `upfirdn2d`.
    """
    for axis in (2, 1):
        shape = [-1, *x.shape[1:]]
        shape[axis] *= 2
        row = (-1, *x.shape[1 : axis + 1], math.prod(x.shape[axis + 1 :]))
        even = 0.75 * x + 0.25 * _before(x, axis)
        odd = 0.75 * x + 0.25 * _after(x, axis)
        pairs = [ops.reshape(even, row), ops.reshape(odd, row)]
        x = ops.reshape(ops.concatenate(pairs, axis=axis + 1), shape)
    return x


def _every_second(x, axis, first):
    return x[:, first::2] if axis == 1 else x[:, :, first::2]


def _before(x, axis):
    """`x_{i-1}` in the place of `x_i`."""
    kept = x[:, :-1] if axis == 1 else x[:, :, :-1]
    return ops.pad(kept, [(1 if a == axis else 0, 0) for a in range(4)])


def _after(x, axis):
    """`x_{i+1}` in the place of `x_i`."""
    kept = x[:, 1:] if axis == 1 else x[:, :, 1:]
    return ops.pad(kept, [(0, 1 if a == axis else 0) for a in range(4)])
