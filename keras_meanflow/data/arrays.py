"""Images held in memory: NumPy arrays and `.npz` files."""

import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from keras_meanflow.files.reading import check_expansion

NPZ_ERRORS = (AttributeError, EOFError, OSError, TypeError, ValueError)
NPZ_ERRORS += (zipfile.BadZipFile, zlib.error)
PIXEL_RANGE = 100  # floats from 0 to above this value are unscaled pixels


def scale_pixels(x: np.ndarray) -> np.ndarray:
    """Returns 8-bit pixels as float32 in [-1, 1]: `x / 127.5 - 1`."""
    return x.astype("float32") / np.float32(127.5) - np.float32(1)


class ArraySource:
    """A data source over arrays in memory.

    8-bit pixels stay 8-bit in memory; `take` scales each batch to [-1, 1].

    Args:
        x: `(n, ...)`, uint8 pixels, or floats in the scale that the network expects.
        y: `(n,)` integer labels, or `(n, ...)` conditions, or a dict of these by name, or None.

    Raises:
        ValueError: for other types, for values that are not finite, or if the numbers of items
            and of conditions differ.

    Example:

    >>> source = ArraySource(np.zeros((10, 8, 8, 1), "uint8"), np.arange(10))
    >>> x, y = source.take([3, 1])
    >>> x.min(), y
    (np.float32(-1.0), array([3, 1], dtype=int32))
    """

    def __init__(self, x: ArrayLike, y: ArrayLike | dict[str, ArrayLike] | None = None):
        self.x = check_values(np.asarray(x), "x")
        self.y = None if y is None else check_conditions(y, len(self.x), "y")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one item, without the batch axis."""
        return self.x.shape[1:]

    @property
    def num_classes(self) -> int | None:
        """The highest label plus one; None without labels."""
        labels = self.y.get("labels") if isinstance(self.y, dict) else self.y
        integers = labels is not None and np.issubdtype(labels.dtype, np.integer)
        return int(labels.max()) + 1 if integers else None

    def take(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray | dict | None]:
        """Returns the items at `indices`, float32, and their labels, conditions or None."""
        x = self.x[indices]
        x = scale_pixels(x) if x.dtype == np.uint8 else x
        if isinstance(self.y, dict):
            return x, {name: array[indices] for name, array in self.y.items()}
        return x, None if self.y is None else self.y[indices]


def load_arrays(path: str | Path, split: str = "train") -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the images of an `.npz` file, scaled to [-1, 1], and their labels.

    Args:
        path: a file with `x_train`, `y_train`, `x_test`, `y_test`, or with `x` and `y`, which
            count as `split="train"`. Labels are optional. Images are `(n, height, width)` or
            `(n, height, width, channels)`, either uint8 or floats that are already scaled.
        split: which arrays to read: `"train"`, `"test"` or any other name after `x_`.

    Returns:
        `x`, float32 `(n, height, width, channels)`, and `y`, int32 `(n,)` or None.

    Raises:
        ValueError: for a file without these arrays, or with arrays of another shape or type; the
            message names the array and the file.

    Example:

    >>> np.savez("images.npz", x=np.full((4, 8, 8), 255, "uint8"), y=[0, 1, 2, 3])
    >>> x, y = load_arrays("images.npz")
    >>> x.shape, x.max()
    ((4, 8, 8, 1), np.float32(1.0))
    """
    x, y, suffix = _read_npz(Path(path), split)
    x = check_images(x, f"x{suffix} of {path}")
    x = scale_pixels(x) if x.dtype == np.uint8 else x
    return x, None if y is None else check_labels(y, len(x), f"y{suffix} of {path}")


def check_images(x: np.ndarray, name: str) -> np.ndarray:
    """Returns `(n, height, width, channels)` images, uint8 or float32; raises for others."""
    if x.ndim not in (3, 4):
        raise ValueError(
            f"{name} must have the shape (n, height, width) or (n, height, width, channels). "
            f"Received {x.shape}."
        )
    return check_values(x if x.ndim == 4 else x[..., None], name)


def check_values(x: np.ndarray, name: str) -> np.ndarray:
    """Returns `x` as uint8 or float32; raises for other types, no items, NaN, unscaled floats."""
    if x.ndim < 2 or not x.size:
        raise ValueError(f"{name} must hold at least one item, as (n, ...). Received {x.shape}.")
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 (0 to 255) or floating point. Received {x.dtype}.")
    _check_finite(x, name)
    low, high = x.min(), x.max()
    if low >= 0 and high > PIXEL_RANGE:
        raise ValueError(
            f"{name} must be scaled to about [-1, 1] if it is floating point. Received values "
            f"from {low:g} to {high:g}: store such pixels as uint8, which is scaled on reading."
        )
    return x.astype("float32", copy=False)


def warn_of_range(x: np.ndarray, name: str) -> None:
    """Warn if float images are not in [-1, 1] but from 0 to 1, 255 or another brightest value."""
    if not np.issubdtype(x.dtype, np.floating) or not x.size or x.min() < 0 or not x.max() > 0:
        return
    white = next((white for white in (1, 16, 255, 65535) if x.max() <= white), x.max())
    warnings.warn(
        f"{name} holds values from {x.min():g} to {x.max():g}, but images are expected in "
        f"[-1, 1]. If white is {white:g}: x = x / {white / 2:g} - 1",
        stacklevel=2,
    )


def check_conditions(
    y: ArrayLike | dict[str, ArrayLike], count: int, name: str
) -> np.ndarray | dict[str, np.ndarray]:
    """Returns `count` labels as int32, or conditions as float32; raises for another number."""
    if isinstance(y, dict):
        return {key: check_conditions(array, count, f"{name}[{key!r}]") for key, array in y.items()}
    y = np.asarray(y)
    if not np.issubdtype(y.dtype, np.floating):
        return check_labels(y, count, name)
    _check_count(y, count, name)
    _check_finite(y, name)
    return y.astype("float32", copy=False)


def check_labels(y: np.ndarray, count: int, name: str) -> np.ndarray:
    """Returns `count` labels as int32 `(count,)`; raises if they are not labels."""
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1:
        raise ValueError(f"{name} must hold one label per image, as (n,). Received {y.shape}.")
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{name} must be integers, 0 and up. Received {y.dtype}.")
    _check_count(y, count, name)
    if y.min() < 0:
        raise ValueError(f"{name} must be integers, 0 and up. Received {y.min()}.")
    return y.astype("int32", copy=False)


def _check_count(y, count, name):
    if len(y) != count:
        raise ValueError(f"{name} must have one entry per item: {count}. Received {len(y)}.")


def _check_finite(x, name):
    finite = np.isfinite(x)
    if not finite.all():
        first = tuple(int(i) for i in np.unravel_index(np.argmin(finite), x.shape))
        raise ValueError(
            f"{name} must be finite. Received {finite.size - finite.sum()} NaN or infinite values, "
            f"the first at index {first}."
        )


def _read_npz(path, split):
    """The images, the labels or None, and the suffix that follows `x` and `y` in their names."""
    if not path.is_file():
        raise ValueError(f"data must be an existing .npz file or folder. There is none at {path}.")
    _check_is_npz(path)
    try:
        check_expansion(path)
        with np.load(path, allow_pickle=False) as stored:
            suffix = "" if split == "train" and "x_train" not in stored else f"_{split}"
            names = sorted(stored.files)
            arrays = {name: stored[name] for name in (f"x{suffix}", f"y{suffix}") if name in names}
    except NPZ_ERRORS as error:
        raise ValueError(f"{path} must be an .npz file of arrays. Received: {error}") from error
    if f"x{suffix}" not in arrays:
        wanted = "x_train or x" if split == "train" else f"x_{split}"
        raise ValueError(f"{path} must hold {wanted}. It holds {', '.join(names) or 'nothing'}.")
    return arrays[f"x{suffix}"], arrays.get(f"y{suffix}"), suffix


def _check_is_npz(path):
    """Raise a ValueError that says what can be read, for another kind of file."""
    if zipfile.is_zipfile(path):
        return
    kind = f"a {path.suffix} file" if path.suffix not in ("", ".npz") else "no archive, or damaged"
    raise ValueError(
        f"{path} must be an .npz file of arrays x and y (np.savez('data.npz', x=x, y=y)), or a "
        f"folder of images. Received: {'an empty file' if not path.stat().st_size else kind}."
    )
