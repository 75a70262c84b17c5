"""The pair store: noise and the teacher's samples from it, on disk, with random access."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from keras_meanflow.backend.random import philox_noise
from keras_meanflow.codecs.base import CODEC, Codec
from keras_meanflow.data.moments import widen
from keras_meanflow.data.shards import LABELS, Shards, read_index
from keras_meanflow.files.atomic import sha256_of
from keras_meanflow.files.saved import load_saved

INDEX, PLAN, DISTANCES = "pairs.json", "reflow.json", "distances.npy"
FORMAT = "keras_meanflow pairs 1"
_FIELDS = {"count": int, "seed": int, "shape": list}
_AGAIN = f"Delete {INDEX} and reflow again: only damaged files are made again."


class PairStore:
    """A data source of `({"x", "e"}, y)` over the folder that `keras-meanflow reflow` makes.

    The folder holds samples x in shards, half precision; labels; and the distances `||x - e||`.
    The noise e is not stored. The noise of pair i is made again from the seed and i, with the same
    bits that the teacher started from. Train with `coupling=StoredPairs()`.

    Args:
        path: the folder.
        percentile: keep only pairs up to this percentile of all distances, because the longest
            lines bend most. 90 in Re-MeanFlow; 100 keeps all. (The paper's code instead drops
            pairs in each batch, by a fixed bound on the mean square of `x - e`; its batches
            differ in size.)

    Raises:
        ValueError: for a folder that is not a finished store, for missing or damaged files, or
            for a percentile outside (0, 100].

    Example:

    >>> pairs = PairStore("digits-pairs", percentile=90)
    >>> data, y = pairs.take([0, 1])
    >>> data["x"].shape == data["e"].shape
    True

    References:
        Re-MeanFlow (arXiv 2511.23342), section 3.
    """

    def __init__(self, path: str | Path, *, percentile: float = 100.0):
        if not 0.0 < percentile <= 100.0:
            raise ValueError(f"percentile must be in (0, 100]. Received: {percentile}.")
        self.path = Path(path)
        make = f"Make it: keras-meanflow reflow RUN {path}"
        names = {"fields": _FIELDS, "holds": "pairs", "make": make}
        self.index = read_index(self.path, INDEX, PLAN, FORMAT, **names)
        self.seed, self.shape = self.index["seed"], tuple(self.index["shape"])
        self._shards = Shards(self.path, self.index["shards"], _AGAIN)
        count = self.index["count"]
        self.labels = self._shards.array(LABELS, self.index.get("labels_sha256"), count)
        self.distances = self._shards.array(DISTANCES, self.index["distances_sha256"], count)
        self.kept = kept_by_distance(self.distances, percentile)

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def num_classes(self) -> int | None:
        """The number of classes of the teacher; None without labels."""
        return self.index.get("num_classes")

    @cached_property
    def codec(self) -> Codec | None:
        """The codec that decodes the samples to pixels; None if the samples are pixels."""
        path = self.path / CODEC
        return load_saved(path) if path.is_file() else None

    def take(self, indices: ArrayLike) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """Returns `{"x", "e"}`, float32, of the kept pairs at `indices`, and their labels or None.

        Index 0 is the first pair that the percentile keeps.
        """
        numbers = self.kept[np.asarray(indices)]
        x = widen(np.stack([self._shards.row(int(i)) for i in numbers]))
        e = philox_noise(self.seed, numbers, self.shape)
        return {"x": x, "e": e}, None if self.labels is None else self.labels[numbers]

    def verify(self) -> None:
        """Reads every file and compares checksums.

        Raises:
            ValueError: naming the first file that has changed.
        """
        others = {name: self.index[key] for name, key in _FILES if self.index.get(key)}
        self._shards.verify(others)


_FILES = ((LABELS, "labels_sha256"), (DISTANCES, "distances_sha256"))


def kept_by_distance(distances: np.ndarray, percentile: float) -> np.ndarray:
    """The sorted indices of the distances up to this percentile of all."""
    return np.flatnonzero(distances <= np.percentile(distances, percentile))


def distances_of(x: np.ndarray, e: np.ndarray) -> np.ndarray:
    """`||x - e||` of each pair, float64 (n,)."""
    difference = x.astype("float64") - e
    return np.sqrt((difference**2).reshape(len(x), -1).sum(axis=1))


def is_pair_store(path: Path) -> bool:
    """Returns whether a folder is a pair store, finished or not."""
    return (path / INDEX).is_file() or (path / PLAN).is_file()


def checksums_of(path: Path, labels: np.ndarray | None) -> dict[str, str | None]:
    """The checksums of the files beside the shards, for the index."""
    return {
        key: sha256_of(path / name) if name != LABELS or labels is not None else None
        for name, key in _FILES
    }
