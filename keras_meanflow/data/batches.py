"""The endless stream of batches that training reads."""

from typing import Any

import keras
import numpy as np

from keras_meanflow.backend.random import check_seed

FLIPS = (0, 0, 0, 1)  # Philox counters that the permutations never reach
DRAWS = (0, 0, 0, 2)


class Batches(keras.utils.PyDataset):
    """An endless, shuffled stream of full batches, each a pure function of (seed, step).

    Position `step * batch_size + row` of the stream is in epoch `position // n` of n items. Each
    epoch has a different permutation, so every item comes once an epoch; a batch may span two
    epochs. A stream with `first_step` continues exactly where another one stopped. The stream has
    no end: pass `steps_per_epoch` to `fit`.

    Args:
        source: has `len(source)` and `take(indices) -> (x, y)`; y is None without conditions. A
            source with random items has `draw(indices, generator, rows)` too, which is called
            instead and returns only the slice `rows`.
        batch_size: rows in each batch.
        seed: of the permutations and the flips, 0 to 2**64 - 1.
        first_step: the step of the first batch.
        flip: mirror each image from left to right with probability 1/2.
        part: `(p, n)`: read only part p of n equal parts of each batch, in process p of n.

    Raises:
        ValueError: for a batch_size or first_step out of range, an empty source, flips of data
            that are not images, or parts that do not divide the batch.

    Example:

    >>> from keras_meanflow.data import ArraySource
    >>> batches = Batches(ArraySource(np.eye(6), np.arange(6)), 4, seed=0)
    >>> x, y = batches[0]
    >>> resumed = Batches(batches.source, 4, seed=0, first_step=2)
    >>> np.array_equal(resumed[0][1], batches[2][1])
    True
    """

    def __init__(
        self,
        source: Any,
        batch_size: int,
        seed: int,
        *,
        first_step: int = 0,
        flip: bool = False,
        part: tuple[int, int] = (0, 1),
    ):
        super().__init__()
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("first_step", first_step, 0)
        _check_at_least("len(source)", len(source), 1)
        if flip and np.ndim(source.take(np.zeros(1, "int64"))[0]) != 4:
            raise ValueError("flip needs images (height, width, channels). Pass flip=False.")
        if flip and hasattr(source, "copies"):
            raise ValueError(
                "Mirrored latents are not the latents of the mirror image. Pass flip=False; to "
                "train on mirror images too, encode with --flips."
            )
        if batch_size % part[1] or not 0 <= part[0] < part[1]:
            raise ValueError(
                f"The processes must divide a batch into equal parts. Received: part {part[0]} of "
                f"{part[1]} of batch_size {batch_size}."
            )
        size = batch_size // part[1]
        self.rows = slice(part[0] * size, (part[0] + 1) * size)
        self.source, self.batch_size, self.seed = source, batch_size, check_seed(seed)
        self.first_step, self.flip = first_step, flip
        self._permutations = {}

    @property
    def num_batches(self) -> None:
        """None: for Keras, the stream is endless."""
        return None

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Returns `(x, y)`, or `(x,)` without y: the batch of step `first_step + index`."""
        step = self.first_step + index
        x, y = self._read(step)
        if self.flip:
            mirrored = self._generator(step, FLIPS).random(self.batch_size) < 0.5
            x = np.where(mirrored[self.rows, None, None, None], x[:, :, ::-1], x)
        return (x,) if y is None else (x, y)

    def _read(self, step):
        if hasattr(self.source, "draw"):
            generator = self._generator(step, DRAWS)
            return self.source.draw(self.indices(step), generator, self.rows)
        return self.source.take(self.indices(step)[self.rows])

    def indices(self, step: int) -> np.ndarray:
        """Returns which items of the source the batch of `step` holds, in order."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        epochs, offsets = np.divmod(positions, len(self.source))
        parts = (self._permutation(int(e))[offsets[epochs == e]] for e in np.unique(epochs))
        return np.concatenate(list(parts))

    def _permutation(self, epoch):
        """The order of an epoch; the last two are kept, for a batch that spans both."""
        if epoch not in self._permutations:
            self._permutations[epoch] = self._generator(epoch).permutation(len(self.source))
            while len(self._permutations) > 2:
                self._permutations.pop(next(iter(self._permutations)))
        return self._permutations[epoch]

    def _generator(self, number, counter=0):
        key = np.array([self.seed, number], "uint64")
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


def _check_at_least(name, value, low):
    if value < low:
        raise ValueError(f"{name} must be at least {low}. Received {value}.")
