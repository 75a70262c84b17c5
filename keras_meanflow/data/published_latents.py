"""Latents in the formats of other projects: raw moments of the SD autoencoder, file by file."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from keras_meanflow.codecs.normalisation import SD_SCALE, Normalisation
from keras_meanflow.data.moments import MomentSource
from keras_meanflow.files.reading import check_expansion, reading
from keras_meanflow.files.torch_files import read_torch

READ_ERRORS = (AttributeError, EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile)


class PublishedMoments(MomentSource):
    """Means, then standard deviations, of each item; a subclass opens, counts and reads them."""

    def __init__(
        self,
        path: str | Path,
        *,
        normalisation: Normalisation = SD_SCALE,
        threads: int | None = None,
    ):
        super().__init__(normalisation, threads)
        self.path, self.moments, self.shape = Path(path), 2, None
        self.count = self._open()
        self.shape = self.read(0, 0)[0].shape[1:]


class TorchLatents(PublishedMoments):
    """A data source over the official MeanFlow's latents: a `.pt` file for each image.

    Each holds `{"image": (2 channels, h, w), "label"}`: means, then standard deviations, as
    `prepare_dataset.py` of Gsunshine/meanflow writes them. Reading needs no torch and runs no
    pickled code. A file takes about a millisecond: for long training, make a store of them.

    Args:
        path: the folder.
        normalisation: of the latents; default: the factor 0.18215.
        threads: number of blocks of rows read in parallel; default: one for each core, at most 16.

    Raises:
        ValueError: for a folder without such files.

    Example:

    >>> z, y = TorchLatents("latents/train").take([0])
    """

    def _open(self):
        self.paths = sorted(self.path.glob("*.pt"))
        if not self.paths:
            raise ValueError(f"{self.path} must be a folder of .pt files. It holds none.")
        return len(self.paths)

    def read(self, index: int, copy: int) -> tuple[np.ndarray, int | None]:
        """Returns one item's raw latents `(2, h, w, channels)`, and its label or None."""
        file = self.paths[index]
        content = read_torch(file)
        if not isinstance(content, dict) or "image" not in content:
            raise ValueError(f'{file} must hold {{"image": ..., "label": ...}}. It does not.')
        label = content.get("label")
        return _channels_last(content["image"], file, self.shape), _label(label)


class ZipLatents(PublishedMoments):
    """A data source over a zip of `.npy` latents with a `dataset.json`, in the format of edm2.

    Each file is `(2 channels, h, w)`: means, then standard deviations; `dataset.json` holds
    `{"labels": [[name, label], ...]}`. The `dataset_tool.py` of NVlabs/edm2, of REPA and of DMF
    write such files. One difference is not recorded in them: edm2 encodes pixels in [0, 1]; the
    others, MeanFlow and this package encode pixels in [-1, 1]. Latents of edm2 therefore have
    other means (about 5.8, 3.3, 0.1, -2.2), and decode to [0, 1].

    Args:
        path: the zip file.
        normalisation: of the latents; default: the factor 0.18215.
        threads: number of blocks of rows read in parallel; default: one for each core, at most 16.

    Raises:
        ValueError: for a file that is not such a zip.

    Example:

    >>> z, y = ZipLatents("vae-sd.zip").take([0])
    """

    def _open(self):
        try:
            check_expansion(self.path)
            self._zip = zipfile.ZipFile(self.path)
        except READ_ERRORS as error:
            raise ValueError(f"{self.path} must be a zip of .npy files. {error}") from error
        names = self._zip.namelist()
        self.names = sorted(name for name in names if name.endswith(".npy"))
        if not self.names:
            raise ValueError(
                f"{self.path} must be a zip of .npy latents. It holds {len(names)} other files."
            )
        self.labels = self._read_labels(names)
        return len(self.names)

    @property
    def num_classes(self) -> int | None:
        """The highest label plus one; None without labels."""
        return None if self.labels is None else int(self.labels.max()) + 1

    def read(self, index: int, copy: int) -> tuple[np.ndarray, int | None]:
        """Returns one item's raw latents `(2, h, w, channels)`, and its label or None."""
        name = self.names[index]
        try:
            latents = np.load(io.BytesIO(self._zip.read(name)), allow_pickle=False)
        except READ_ERRORS as error:
            raise ValueError(f"{self.path} is damaged at {name}. {error}") from error
        label = None if self.labels is None else int(self.labels[index])
        return _channels_last(latents, f"{self.path}: {name}", self.shape), label

    def _read_labels(self, names):
        if "dataset.json" not in names:
            return None
        with reading(self.path):
            pairs = json.loads(self._zip.read("dataset.json")).get("labels")
            labels = dict(pairs or ())
        if pairs is None:
            return None
        missing = [name for name in self.names if name not in labels]
        if missing:
            raise ValueError(
                f"dataset.json of {self.path} must give every file a label. {len(missing)} have "
                f"none, the first {missing[0]}."
            )
        with reading(self.path):
            return np.array([labels[name] for name in self.names], "int32")


def _channels_last(latents, name, shape):
    """(2 channels, h, w) as float32 (2, h, w, channels); raises for others."""
    good = isinstance(latents, np.ndarray) and latents.ndim == 3 and latents.shape[0] % 2 == 0
    if not good or not np.issubdtype(latents.dtype, np.floating):
        found = f"{latents.dtype} {latents.shape}" if hasattr(latents, "shape") else type(latents)
        raise ValueError(
            f"{name} must hold floats (2 channels, h, w): means, then standard deviations. "
            f"Received {found}."
        )
    planes = latents.reshape(2, -1, *latents.shape[1:])
    last = np.ascontiguousarray(planes.transpose(0, 2, 3, 1), "float32")
    if shape not in (None, last.shape[1:]):
        found = last.shape[1:]
        raise ValueError(f"{name} must have the first file's shape, {shape}. Received {found}.")
    return last


def _label(value):
    return None if value is None else int(value)
