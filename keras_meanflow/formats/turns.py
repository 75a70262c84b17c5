"""Lossless conversions of a published tensor to our weight and back: transpose, negate, join."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Turn(NamedTuple):
    """A conversion: `ours(arrays, network)` is our array, `theirs(array, network)` their arrays."""

    ours: Callable
    theirs: Callable


class Row(NamedTuple):
    """One line of a format's table: our weight, the names of their tensors, and the conversion."""

    ours: str
    theirs: tuple[str, ...]
    turn: Turn


def _one(ours, theirs):
    """The conversion of a single tensor."""
    return Turn(lambda a, _: ours(a[0]), lambda a, _: [theirs(a)])


SAME = _one(lambda a: a, lambda a: a)
TRANSPOSED = _one(np.transpose, np.transpose)
NEGATED = _one(np.negative, np.negative)
NEGATED_TRANSPOSED = _one(lambda a: -a.T, lambda a: -a.T)


# The output channels are first in torch, and last in Keras.
TORCH_CONV = _one(lambda a: a.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))
TORCH_CONV1 = _one(lambda a: a[:, :, 0, 0].T, lambda a: a.T[:, :, None, None])
NEGATED_TORCH_CONV1 = _one(lambda a: -a[:, :, 0, 0].T, lambda a: -a.T[:, :, None, None])


def _swap_halves(rows):
    """The rows with their first and second quarter swapped, and their third and fourth."""
    parts = rows.reshape(2, 2, len(rows) // 4, *rows.shape[1:])
    return parts[:, ::-1].reshape(rows.shape)


# Two embeddings side by side: theirs begin with the sines, ours with the cosines.
SINES_FIRST = _one(lambda a: _swap_halves(a.T), lambda a: _swap_halves(a).T)
SINES_FIRST_OUTPUT = _one(lambda a: _swap_halves(a).T, lambda a: _swap_halves(a.T))


def _patch_shape(array, network):
    return (network.patch_size, network.patch_size, network.channels, array.shape[-1])


# A convolution over patches is a matrix product with the (p, p, channels) numbers of a patch.
TORCH_PATCHES = Turn(
    lambda a, _: a[0].transpose(2, 3, 1, 0).reshape(-1, len(a[0])),
    lambda a, network: [a.reshape(_patch_shape(a, network)).transpose(3, 2, 0, 1)],
)
FLAX_PATCHES = Turn(
    lambda a, _: a[0].reshape(-1, a[0].shape[-1]),
    lambda a, network: [a.reshape(_patch_shape(a, network))],
)
JOINED = Turn(
    lambda a, _: np.concatenate(a, axis=-1),
    lambda a, _: np.split(a, 3, axis=-1),
)
JOINED_TRANSPOSED = Turn(
    lambda a, _: np.concatenate([part.T for part in a], axis=-1),
    lambda a, _: [part.T for part in np.split(a, 3, axis=-1)],
)


def copies(turn: Turn, count: int) -> Turn:
    """The conversion of a tensor that a file holds `count` times; the copies must be equal."""

    def ours(arrays, network):
        if any(not np.array_equal(arrays[0], other) for other in arrays[1:]):
            raise ValueError(
                f"The file's {count} copies of an embedding must be equal, but they differ: "
                "it was trained after its conversion. Our networks have the embedding once."
            )
        return turn.ours(arrays[:1], network)

    return Turn(ours, lambda a, network: turn.theirs(a, network) * count)
