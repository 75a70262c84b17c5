"""The images of a reference set, from files or folders, as uint8 batches for feature networks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_meanflow.data import ArraySource, load_arrays, load_digits, open_source
from keras_meanflow.data.arrays import warn_of_range
from keras_meanflow.data.folder import SPLITS
from keras_meanflow.evaluation.protocols import quantise
from keras_meanflow.metrics.reference import npz_images, npz_names, npz_shape


class Images:
    """A set of images, read batch by batch in a fixed random order.

    Only a batch file of ADM (`arr_0`) keeps its order, because it is read as a stream.

    Args:
        data: A folder of images; an `.npz` file with `x_train` or `x`, or `arr_0`; another split of
            such a file, as in "mnist.npz:test"; or "digits", "digits:train", "digits:test".
        image_size: Side in pixels, to which a folder's images are cropped; required for a folder.
        channels: Of a folder's images; 3 by default.

    Raises:
        ValueError: For other data, and as in `data.open_source`.

    Example:
        >>> images = Images("digits:test")
        >>> len(images), next(images.batches(4)).shape
        (898, (4, 8, 8, 1))
    """

    def __init__(
        self, data: str | Path, *, image_size: int | None = None, channels: int | None = None
    ):
        self.name = str(data)
        path, split = _split(self.name)
        self._stream = path if not split and "arr_0" in npz_names(path) else None
        if self._stream:
            self._count = npz_shape(path)[0]
        elif path == "digits":
            self._source = ArraySource(*load_digits(split or "all"))
        elif split:
            self._source = ArraySource(*load_arrays(path, split))
        else:
            self._source = open_source(path, image_size, channels)
        if not self._stream and hasattr(self._source, "x"):
            warn_of_range(self._source.x, f"x of {self.name}")

    def named(self, reference: str | None) -> str:
        """The name of statistics of these images: `reference`, or their own for another set.

        The package's digits have their own name. Another set is seen by its split: test images are
        no "mnist-train".
        """
        wanted = re.search(rf"[-:]({'|'.join(SPLITS)})$", reference or "")
        split = self._split_name()
        other = split and wanted and wanted[1] != split
        if not reference or other or _split(self.name)[0] == "digits":
            return self.name
        return reference

    def _split_name(self):
        """The split that a path names, as in mnist.npz:test or eurosat/test; None if unknown."""
        path, split = _split(self.name)
        last = Path(path).name.lower()
        return split or ("train" if last.endswith(".npz") else last if last in SPLITS else None)

    def __len__(self) -> int:
        return self._count if self._stream else len(self._source)

    def batches(self, batch_size: int = 64) -> Iterator[np.ndarray]:
        """Yields all images, uint8 (N, H, W, C)."""
        if self._stream:
            yield from npz_images(self._stream, batch_size)
            return
        order = np.random.Generator(np.random.Philox(key=0)).permutation(len(self))
        for start in range(0, len(self), batch_size):
            yield quantise(self._source.take(order[start : start + batch_size])[0])


def _split(name):
    """("mnist.npz", "test") for "mnist.npz:test"; ("mnist.npz", "") without a split."""
    found = re.fullmatch(r"(.+\.npz|digits):(\w+)", name)
    return found.groups() if found else (name, "")
