"""Counter-based random numbers: a pure function of (seed, step, global row), on any backend.

Threefry-2x32 with 20 rounds in int32 arithmetic, which wraps in the same way on JAX, TensorFlow and
PyTorch. So the three draw the same bits, in eager code, in compiled code and on any number of
devices. `philox_noise` uses NumPy, for noise that is made outside the compiled step.

References:
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

import dataclasses
import functools
import math
import operator
import zlib
from collections.abc import Iterable
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor

# On PyTorch Python operators cost a tenth of keras.ops; TensorFlow has no operators for shifts.
_SHIFTS = keras.config.backend() != "tensorflow"
_left, _right = (operator.lshift, operator.rshift) if _SHIFTS else (ops.left_shift, ops.right_shift)

MAX_SEED = 2**64 - 1
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_ELEMENT_BITS = 26  # a stream's id sits above them, so a row holds up to 2**27 draws a stream


def _int32(word):
    """A Python integer as the int32 of the same low 32 bits."""
    return ((word & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def _rotate_left(x, bits):
    return _left(x, bits) | (_right(x, 32 - bits) & ((1 << bits) - 1))


def threefry2x32(
    key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """The two int32 words of Threefry-2x32-20 for a key and a counter of two int32 words each."""
    k0, k1 = key
    k2 = k0 ^ k1 ^ _PARITY
    keys = (k0, k1, k2)
    x0, x1 = counter[0] + k0, counter[1] + k1
    for group in range(5):
        for bits in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, bits) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + (group + 1)
    return x0, x1


def _open_unit(word):
    """A word's 23 high bits as a float32 strictly between 0 and 1."""
    bits = _right(word, 9) & ((1 << 23) - 1)
    return (ops.cast(bits, "float32") + 0.5) * 2.0**-23


def keep_mask(keys: Tensor, stream: int, shape: tuple[int, ...], rate: float) -> Tensor:
    """Booleans of `shape`, each False with probability `rate`, a function of the row's key.

    `rate` is rounded to a multiple of 1 / 65536, because each word gives two draws.

    Args:
        keys: (B, 2) int32, from `Keys.row_keys`.
        stream: number of the mask, so that one key gives many masks.
        shape: of the mask, rows first.
        rate: share of False.
    """
    width = math.prod(shape[1:])
    element = ops.reshape(ops.arange(-(-width // 4), dtype="int32"), (1, -1))
    words = threefry2x32((keys[:, :1], keys[:, 1:]), (element, 0 * element + stream))
    halves = [half for word in words for half in (word & 0xFFFF, _right(word, 16) & 0xFFFF)]
    kept = ops.concatenate(halves, axis=1)[:, :width] >= round(rate * 0x10000)
    return ops.reshape(kept, (-1, *shape[1:]))


def _stream(name):
    return _int32((zlib.crc32(name.encode()) & 0x3F) << _ELEMENT_BITS)


@dataclasses.dataclass(frozen=True)
class Keys:
    """The draws of one step. They depend on their name and on the row in the global batch.

    Args:
        seed: the run's seed, an integer; or an int32 scalar tensor, the same draws.
        step: the batch's number, an int32 scalar tensor or an integer.
        first_row: global index of the first row on this replica.
        progress: progress of training, a float32 scalar in [0, 1]; schedules read it.
        state: scalars by name that training carries from step to step; time laws read them.
        branch: a name that separates these draws from others of the same step.

    Example:
        >>> keys = Keys(seed=0, step=3)
        >>> e = keys.normal("e", (8, 32, 32, 4))
    """

    seed: int | Tensor
    step: Any
    first_row: Any = 0
    progress: Any = 1.0
    state: dict = dataclasses.field(default_factory=dict)
    branch: str = ""

    def of_branch(self, name: str) -> Self:
        """The draws of a second branch in the same step, independent of these."""
        return dataclasses.replace(self, branch=f"{self.branch}{name}/")

    def of_first_row(self) -> Self:
        """The draws of the global batch's first row, the same on every device."""
        return dataclasses.replace(self, first_row=0)

    @functools.cached_property
    def _key(self):
        step = ops.cast(ops.convert_to_tensor(self.step), "int32")
        low, high = self._seed_words()
        return threefry2x32((low + 0 * step, high + 0 * step), (step, 0 * step))

    def _seed_words(self):
        if isinstance(self.seed, int):
            return _int32(self.seed), _int32(self.seed >> 32)
        return ops.cast(self.seed, "int32"), 0

    def _words(self, name, rows, width):
        row = ops.reshape(ops.arange(rows, dtype="int32") + self.first_row, (-1, 1))
        stream = _stream(self.branch + name)
        element = ops.reshape(ops.arange(width, dtype="int32") + stream, (1, -1))
        return threefry2x32(self._key, (row + 0 * element, element + 0 * row))

    def row_keys(self, name: str, rows: int) -> Tensor:
        """Keys for draws inside the network, (rows, 2) int32; `keep_mask` takes them."""
        return ops.concatenate(self._words(name, rows, 1), axis=1)

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Float32 in (0, 1) of `shape`, whose first axis is the rows."""
        rows, width = shape[0], math.prod(shape[1:])
        first, second = self._words(name, rows, -(-width // 2))
        draws = ops.concatenate([_open_unit(first), _open_unit(second)], axis=1)
        return ops.reshape(draws[:, :width], shape)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Float32 standard normal draws of `shape`, whose first axis is the rows (Box-Muller)."""
        rows, width = shape[0], math.prod(shape[1:])
        first, second = self._words(name, rows, -(-width // 2))
        radius = ops.sqrt(-2.0 * ops.log(_open_unit(first)))
        angle = (2.0 * math.pi) * _open_unit(second)
        draws = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
        return ops.reshape(draws[:, :width], shape)


def check_seed(seed: int) -> int:
    """The seed as a Python integer.

    Raises:
        ValueError: for a seed that is no integer, or lies outside 0..2**64 - 1.
    """
    whole = seed if hasattr(seed, "__index__") else -1
    if not 0 <= operator.index(whole) <= MAX_SEED:
        raise ValueError(f"seed must be from 0 to {MAX_SEED}, an integer. Received: {seed!r}.")
    return operator.index(seed)


def philox_noise(
    seed: int, indices: Iterable[int], shape: tuple[int, ...], *, draw: int = 0
) -> np.ndarray:
    """Noise of the images `indices` of `seed`, float32 (n, *shape): the same bits everywhere.

    Image i starts from NumPy's Philox keyed by (seed, i), on any backend, batch size and device.
    Later draws, for samplers that add noise between steps, start at other counters.

    Raises:
        ValueError: for a seed that `check_seed` refuses, or a negative index.
    """
    seed, indices = check_seed(seed), [int(i) for i in indices]
    if min(indices, default=0) < 0:
        raise ValueError(f"Images are counted from 0. Received: {min(indices)}.")
    draws = [_philox(seed, i, draw).standard_normal(shape, "float32") for i in indices]
    return np.stack(draws) if draws else np.zeros((0, *shape), "float32")


def _philox(seed, image, draw):
    key = np.array([seed, image], "uint64")  # a list from 2**63 on would become floats
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, draw]))
