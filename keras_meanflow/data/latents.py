"""The latent store: a data set of encoded images, on disk, read at random."""

from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from keras_meanflow.codecs.base import CODEC, Codec
from keras_meanflow.codecs.normalisation import Normalisation
from keras_meanflow.data.moments import MomentSource
from keras_meanflow.data.shards import LABELS, Shards, read_index

INDEX, PLAN = "store.json", "encoding.json"
FORMAT = "keras_meanflow latents 1"
DTYPE = "float16"
_AGAIN = f"Delete {INDEX} and encode again: only what is damaged is redone."


class LatentStore(MomentSource):
    """A data source over the folder that `keras-meanflow encode` makes.

    The folder holds raw latents in shards, `shard-00000.npy` and so on, half precision
    `(n, copies, moments, h, w, channels)`, memory-mapped when read; `labels.npy`; the autoencoder,
    `codec.keras`; and `store.json`: sizes, class names, statistics, normalisation, checksums.
    A batch of `Batches` is drawn from all shards, and is a function of (seed, step).

    Args:
        path: the folder.
        normalisation: of the latents; default the recorded one.
        threads: how many blocks of rows are read at a time; default one a core.

    Raises:
        ValueError: for a folder that is no store or is not finished, for shards that are missing
            or truncated.

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
        self.index = read_index(self.path, INDEX, PLAN, FORMAT, holds="latents", make=make)
        super().__init__(normalisation or Normalisation(**self.index["normalisation"]), threads)
        self.count, self.shape = self.index["count"], tuple(self.index["shape"])
        self.moments, self.copies = self.index["moments"], self.index["copies"]
        self.class_names = tuple(self.index["class_names"])
        self.labels = None
        if self.index["labels_sha256"]:
            self.labels = np.load(self.path / LABELS, allow_pickle=False)
        self._shards = Shards(self.path, self.index["shards"], _AGAIN)

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None where there are no labels."""
        if self.labels is None:
            return None
        return len(self.class_names) or int(self.labels.max()) + 1

    @cached_property
    def codec(self) -> Codec | None:
        """The autoencoder that made the store, with this normalisation; None if none is recorded.

        Raises:
            ValueError: when `codec.keras` holds another one than `store.json` says.
        """
        recorded = self.index["codec"]
        if recorded is None:
            return None
        codec = keras.saving.load_model(self.path / CODEC, compile=False)
        codec.normalisation = self.normalisation
        self.check_codec(codec)
        return codec

    def check_codec(self, codec: Codec) -> None:
        """Raises a ValueError if these latents are not of that codec and its normalisation."""
        super().check_codec(codec)
        expected = self.index["codec"] or {}
        found = codec.describe()
        for name, value in expected.items():
            if found[name] != value:
                raise ValueError(
                    f"{self.path} was encoded by another codec: its {name} is {value}. "
                    f"Received {found[name]}."
                )

    def read(self, index, copy):
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
