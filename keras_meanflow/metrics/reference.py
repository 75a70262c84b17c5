"""Reference statistics on disk: published files are read, new files also hold their protocol."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from keras_meanflow.files.atomic import sha256_of, write_atomically
from keras_meanflow.files.cache import check_sha256
from keras_meanflow.files.reading import open_npz, reading
from keras_meanflow.metrics.statistics import Statistics

KEYS = (("mu", "sigma"), ("ref_mu", "ref_sigma"))


@dataclasses.dataclass(frozen=True)
class Reference:
    """Mean and covariance of the features of a reference set, and how they were made.

    Args:
        mean: (D,), float64.
        covariance: (D, D), float64.
        count: Number of samples; None where the file does not hold it.
        protocol: How the features were made: name -> value; None for files from other software.
        features: Some of the features, (M, D) float32, for the metrics of pairs; may be on disk.
        origin: The `file` and its `sha256`, or the `data` it was made from; empty if unknown.

    Raises:
        ValueError: When shapes disagree or a value is not finite.

    Example:
        >>> reference = Reference(np.zeros(2), np.eye(2), count=100)
        >>> reference.save("reference.npz")
        >>> Reference.load("reference.npz").count
        100
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None
    protocol: dict | None = None
    features: np.ndarray | None = None
    origin: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        mean, covariance = check_moments(self.mean, self.covariance)
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "covariance", covariance)

    @classmethod
    def of(cls, statistics: Statistics, protocol: dict | None = None) -> Reference:
        """The reference with the mean, covariance and count of a `Statistics`."""
        total = statistics.total()
        return cls(total.mean, total.covariance, total.count, protocol)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Reference:
        """Read a file with `mu/sigma` (`save`, pytorch-fid, ADM) or `ref_mu/ref_sigma` (MeanFlow).

        Features next to the file, in `.features.f32`, stay on disk.

        Raises:
            ValueError: When the file holds neither pair of keys or is damaged, or when the features
                are not those that were written with it.
        """
        with open_npz(path) as file:
            names = next((pair for pair in KEYS if set(pair) <= set(file.files)), None)
            if names is None:
                raise ValueError(
                    "Reference statistics need the arrays mu/sigma or ref_mu/ref_sigma. "
                    f"{path} holds {file.files}; images (arr_0) are read by `npz_images`."
                )
            count = int(file["count"]) if "count" in file else None
            protocol = json.loads(str(file["protocol"])) if "protocol" in file else None
            mean, covariance = check_moments(*(file[name] for name in names))
            checksum = str(file["features_sha256"]) if "features_sha256" in file else None
        features, rows = features_path(path), None
        if features.is_file():
            check_sha256(features, checksum)
            with reading(features):
                rows = read_features(features, mean.size)
        origin = {"file": str(path), "sha256": sha256_of(path)}
        return cls(mean, covariance, count, protocol, rows, origin)

    def save(self, path: str | os.PathLike) -> None:
        """Write `mu` and `sigma`, and `count` and `protocol` (JSON) where known, to an `.npz`.

        Features go into a file `.features.f32` next to it, and their checksum into the `.npz`. An
        older file of that name is deleted. Both files are complete or not there at all.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"Reference statistics are an .npz file. Received {path}.")
        extra = {}
        if self.count is not None:
            extra["count"] = np.int64(self.count)
        if self.protocol is not None:
            extra["protocol"] = json.dumps(self.protocol, sort_keys=True)
        arrays = {"mu": self.mean, "sigma": self.covariance, **extra}

        def write():
            write_atomically(Path(path), lambda temporary: np.savez(temporary, **arrays))

        if self.features is None:
            write()
            features_path(path).unlink(missing_ok=True)
            return

        def write_both(temporary):
            np.asarray(self.features, "<f4").tofile(temporary)
            arrays["features_sha256"] = sha256_of(temporary)
            write()  # both are on the disk before either takes its place

        write_atomically(features_path(path), write_both)


def is_reference(path: str | os.PathLike) -> bool:
    """Whether a file holds reference statistics that `Reference.load` can read."""
    return any(set(pair) <= npz_names(path) for pair in KEYS)


def reference_name(source: str | os.PathLike) -> str:
    """The name in a file of statistics, or else the file's stem; for data the argument itself."""
    if not is_reference(source):
        return str(source)
    return (Reference.load(source).protocol or {}).get("name") or Path(source).stem


def npz_names(path: str | os.PathLike) -> set[str]:
    """The names of the arrays in an `.npz` file; empty for any other file."""
    if Path(path).suffix != ".npz" or not zipfile.is_zipfile(path):
        return set()
    with reading(path), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


class FeatureFile:
    """Appends features to a file of raw float32, up to a number of rows.

    Args:
        path: The file to write.
        limit: The number of rows to keep; later rows are dropped.
    """

    def __init__(self, path: str | os.PathLike, limit: int):
        self.path, self.left = Path(path), limit
        self.path.write_bytes(b"")

    def append(self, features: np.ndarray) -> None:
        """Add a batch of features (N, D), up to the limit."""
        rows = features[: self.left]
        with open(self.path, "ab") as file:
            file.write(np.ascontiguousarray(rows, "<f4").data)
        self.left -= len(rows)


def read_features(path: str | os.PathLike, width: int) -> np.ndarray:
    """The features (N, width) of a `FeatureFile`; they stay on disk."""
    if not os.path.getsize(path):
        return np.zeros((0, width), np.float32)
    return np.memmap(path, "<f4", mode="r").reshape(-1, width)


def features_path(path: str | os.PathLike) -> Path:
    """The file of the features of a reference, next to its `.npz`."""
    return Path(path).with_suffix(".features.f32")


def check_moments(mean: ArrayLike, covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance as float64.

    Raises:
        ValueError: When shapes disagree or a value is not finite.
    """
    mean = np.atleast_1d(np.asarray(mean, np.float64))
    covariance = np.atleast_2d(np.asarray(covariance, np.float64))
    if mean.ndim != 1 or covariance.shape != (mean.size, mean.size):
        raise ValueError(
            "A mean of width D needs a covariance of shape (D, D). "
            f"Received mean {mean.shape}, covariance {covariance.shape}."
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("A mean and a covariance must be finite. Received NaN or infinity.")
    return mean, covariance


def npz_images(
    path: str | os.PathLike, batch_size: int = 64, *, name: str = "arr_0"
) -> Iterator[np.ndarray]:
    """Yields the uint8 images of an ADM batch file (`arr_0`, (N, H, W, 3)), batch by batch.

    Args:
        path: An `.npz` file, compressed or not.
        batch_size: Images per batch.
        name: The array to read.

    Raises:
        ValueError: When the array is absent, or is not uint8 of rank 4.

    Example:
        >>> np.savez("samples.npz", np.zeros((5, 8, 8, 3), "uint8"))
        >>> [len(batch) for batch in npz_images("samples.npz", 2)]
        [2, 2, 1]
    """
    with _open_npy(path, name) as (stream, shape):
        size = int(np.prod(shape[1:]))
        for start in range(0, shape[0], batch_size):
            rows = min(batch_size, shape[0] - start)
            pixels = stream.read(rows * size)
            yield np.frombuffer(pixels, np.uint8).reshape(rows, *shape[1:])


def npz_shape(path: str | os.PathLike, *, name: str = "arr_0") -> tuple[int, int, int, int]:
    """The shape of all images that `npz_images` yields; the pixels are not read."""
    with _open_npy(path, name) as (_, shape):
        return shape


@contextlib.contextmanager
def _open_npy(path, name):
    """A stream at the first pixel of an array of images in an `.npz`, and the array's shape."""
    with reading(path), zipfile.ZipFile(path) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise ValueError(f"{path} has no array {name!r}. It holds {archive.namelist()}.")
        with archive.open(f"{name}.npy") as stream:
            shape, dtype = _npy_header(stream)
            if len(shape) != 4 or dtype != np.uint8:
                raise ValueError(
                    f"Images must be uint8 (N, H, W, C). {path}:{name} is {dtype} {shape}."
                )
            yield stream, shape


def _npy_header(stream):
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran_order, dtype = read[version](stream)
    if fortran_order:
        raise ValueError("Images must be stored in C order. Received Fortran order.")
    return shape, dtype
