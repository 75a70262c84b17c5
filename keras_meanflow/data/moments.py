"""The base of all sources of latents: reads moments, returns normalised latents."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from keras_meanflow.codecs.base import Codec
from keras_meanflow.codecs.normalisation import Normalisation

BLOCK = 64  # rows that one thread reads and samples, with one generator
SIGN_AND_HALF = np.int32(-(2**31) | 0x0FFFE000)


def widen(values: np.ndarray) -> np.ndarray:
    """Returns finite numbers as float32; half precision twice as fast as NumPy.

    A half has its sign at bit 15, then the first bits of a float32 whose exponent is 112 too low.
    """
    if values.dtype != np.float16:
        return values.astype("float32")
    bits = values.view("int16").astype("int32")  # extends the sign
    bits <<= 13
    bits &= SIGN_AND_HALF
    wide = bits.view("float32")
    wide *= np.float32(2.0**112)
    return wide


class MomentSource:
    """A data source over raw latents: means, or means and standard deviations.

    `take` returns the means, `draw` returns samples (of stored mirror images too). Both are
    normalised. A subclass sets `count`, `shape`, `moments` (1 or 2) and `copies`, and has `read`.

    Args:
        normalisation: from raw latents to normalised ones.
        threads: number of blocks of rows read in parallel; default: one for each core, at most 16.
    """

    shape: tuple[int, int, int]
    moments: int
    copies = 1
    class_names: tuple[str, ...] = ()
    codec = None

    def __init__(self, normalisation: Normalisation, threads: int | None = None):
        self.normalisation = normalisation
        self.threads = threads or min(16, os.cpu_count() or 1)
        self._affine = None

    def __len__(self) -> int:
        return self.count

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if it is not recorded."""
        return len(self.class_names) or None

    def read(self, index: int, copy: int) -> tuple[np.ndarray, int | None]:
        """Returns one item's raw latents `(moments, h, w, channels)`, and its label or None."""
        raise NotImplementedError

    def take(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the normalised means of the latents at `indices`, and their labels or None."""
        return self._gather(np.asarray(indices), None)

    def draw(
        self, indices: ArrayLike, generator: np.random.Generator, rows: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns normalised samples of the latents at `indices`, and their labels or None.

        If mirror images are stored, each sample is of the image or of its mirror image. The draws
        depend on the generator and on the position among the indices; they do not depend on the
        number of threads or on `rows`. Only the `rows` are returned, and few others are read.
        """
        return self._gather(np.asarray(indices), generator, rows)

    def raw(self, indices: ArrayLike, copy: int = 0) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns raw latents `(n, moments, h, w, channels)` and labels or None at `indices`."""
        latents, labels = zip(*(self.read(int(i), copy) for i in indices), strict=True)
        return np.stack(latents), None if labels[0] is None else np.array(labels, "int32")

    def check_codec(self, codec: Codec) -> None:
        """Raises a ValueError if the codec has another normalisation than these latents."""
        if codec.normalisation != self.normalisation:
            raise ValueError(
                f"The latents are read with {self.normalisation}. Received a codec with "
                f"{codec.normalisation}: use the same for both."
            )

    def _gather(self, indices, generator, rows=slice(None)):
        start, stop, _ = rows.indices(len(indices))
        blocks = [indices[first : first + BLOCK] for first in range(0, len(indices), BLOCK)]
        seeds = [None] * len(blocks)
        if generator is not None:
            seeds = generator.integers(2**63, size=len(blocks)).tolist()
        first, last = start // BLOCK, -(-stop // BLOCK)  # the blocks that hold the rows
        blocks, seeds = blocks[first:last], seeds[first:last]
        rows = slice(start - first * BLOCK, stop - first * BLOCK)
        indices = np.concatenate(blocks)
        x = np.empty((len(indices), *self.shape), "float32")
        parts = np.split(x, range(BLOCK, len(indices), BLOCK))
        if len(blocks) == 1:
            labels = [self._fill(parts[0], blocks[0], seeds[0])]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                labels = list(pool.map(self._fill, parts, blocks, seeds))
        x, labels = x[rows], sum(labels, [])[rows]
        return x, None if labels[0] is None else np.array(labels, "int32")

    def _fill(self, x, indices, seed):
        """Fills x with the latents at `indices`; returns their labels."""
        generator = None if seed is None else np.random.Generator(np.random.SFC64(seed))
        copies = np.zeros(len(indices), "int64")
        if generator is not None and self.copies > 1:
            copies = generator.integers(self.copies, size=len(indices))
        if generator is not None and self.moments == 2:
            generator.standard_normal(out=x, dtype="float32")
        else:
            x[:] = 0
        mean, inverse_std = self._map()
        raw, labels = zip(*map(self.read, indices.tolist(), copies.tolist()), strict=True)
        raw = widen(np.stack(raw, axis=1))  # (moments, n, h, w, channels)
        if self.moments == 2:
            x *= raw[1]
        x += raw[0]
        x -= mean
        x *= inverse_std
        return list(labels)

    def _map(self):
        """The mean and 1 / std, in the shape of an item: long rows are fast."""
        if self._affine is None:
            mean, std = (np.float32(v) for v in (self.normalisation.mean, self.normalisation.std))
            self._affine = tuple(np.broadcast_to(v, self.shape).copy() for v in (mean, 1 / std))
        return self._affine
