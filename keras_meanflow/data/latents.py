"""The latent store: a data set of encoded images, on disk, with random access."""

from functools import cached_property
from pathlib import Path

import numpy as np

from keras_meanflow.codecs.base import CODEC, Codec
from keras_meanflow.codecs.normalisation import Normalisation
from keras_meanflow.data.moments import MomentSource
from keras_meanflow.data.shards import LABELS, Shards, read_index
from keras_meanflow.files.reading import reading
from keras_meanflow.files.saved import load_saved

INDEX, PLAN = "store.json", "encoding.json"
FORMAT = "keras_meanflow latents 1"
DTYPE = "float16"
_FIELDS = {
    **dict.fromkeys(("count", "moments", "copies"), int),
    **dict.fromkeys(("shape", "class_names"), list),
    "normalisation": dict,
}
_AGAIN = f"Delete {INDEX} and encode again: only damaged files are made again."


class LatentStore(MomentSource):
    """A data source over the folder that `keras-meanflow encode` makes.

    The folder holds:

    - `shard-00000.npy`, ...: raw latents `(n, copies, moments, h, w, channels)` in half precision,
      memory-mapped when read;
    - `labels.npy`, and the autoencoder, `codec.keras`;
    - `store.json`: sizes, class names, statistics, normalisation, checksums.

    `Batches` draws each batch from all shards, as a function of (seed, step).

    Args:
        path: the folder.
        normalisation: of the latents; default: the recorded one.
        threads: number of blocks of rows read in parallel; default: one for each core, at most 16.

    Raises:
        ValueError: for a folder that is not a finished store, or for missing or damaged files.

    Example:

    >>> store = LatentStore("eurosat-latents")
    >>> z, y = store.take([0, 1])
    >>> pixels = store.codec.decode(z)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        normalisation: Normalisation | None = None,
        threads: int | None = None,
    ):
        self.path = Path(path)
        make = f"Encode it: keras-meanflow encode SOURCE {path} ..."
        names = {"fields": _FIELDS, "holds": "latents", "make": make}
        self.index = read_index(self.path, INDEX, PLAN, FORMAT, **names)
        with reading(self.path / INDEX):
            recorded = Normalisation(**self.index["normalisation"])
        super().__init__(normalisation or recorded, threads)
        self.count, self.shape = self.index["count"], tuple(self.index["shape"])
        self.moments, self.copies = self.index["moments"], self.index["copies"]
        self.class_names = tuple(self.index["class_names"])
        self._shards = Shards(self.path, self.index["shards"], _AGAIN)
        self.labels = self._shards.array(LABELS, self.index.get("labels_sha256"), self.count)

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None without labels."""
        if self.labels is None:
            return None
        return len(self.class_names) or int(self.labels.max()) + 1

    @cached_property
    def codec(self) -> Codec | None:
        """The autoencoder that made the store, with this normalisation; None if none is recorded.

        Raises:
            ValueError: if `codec.keras` is not the codec that `store.json` describes.
        """
        recorded = self.index.get("codec")
        if recorded is None:
            return None
        codec = load_saved(self.path / CODEC)
        codec.normalisation = self.normalisation
        self.check_codec(codec)
        return codec

    def check_codec(self, codec: Codec) -> None:
        """Raises a ValueError if the latents are of another codec or another normalisation."""
        super().check_codec(codec)
        expected = self.index.get("codec") or {}
        found = codec.describe()
        for name, value in expected.items():
            if found[name] != value:
                raise ValueError(
                    f"{self.path} was encoded by another codec: its {name} is {value}. "
                    f"Received {found[name]}."
                )

    def read(self, index: int, copy: int) -> tuple[np.ndarray, int | None]:
        """Returns one item's raw latents, memory-mapped, and its label or None."""
        label = None if self.labels is None else self.labels[index]
        return self._shards.row(index)[copy], label

    def verify(self) -> None:
        """Reads every file and compares checksums.

        Raises:
            ValueError: naming the first file that has changed.
        """
        others = {} if self.labels is None else {LABELS: self.index["labels_sha256"]}
        self._shards.verify(others)


def is_store(path: Path) -> bool:
    """Returns whether a folder is a latent store, finished or not."""
    return (path / INDEX).is_file() or (path / PLAN).is_file()
