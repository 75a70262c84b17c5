"""Opens every kind of image data as a data source."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_meanflow.data.arrays import ArraySource, check_images, load_arrays
from keras_meanflow.data.digits import load_digits
from keras_meanflow.data.folder import ImageFolder
from keras_meanflow.data.latents import LatentStore, is_store
from keras_meanflow.data.pairs import PairStore, is_pair_store
from keras_meanflow.data.published_latents import TorchLatents, ZipLatents


def open_source(
    data: Any,
    image_size: int | None = None,
    channels: int | None = None,
    *,
    on_error: str = "raise",
) -> Any:
    """Returns a data source, `len(source)` and `source.take(indices) -> (x, y)`, over `data`.

    Args:
        data: "digits", "digits:train" or "digits:test" of the package; the path of an `.npz` file,
            of a folder of images, of a latent store, of a pair store, of a folder of `.pt` latents
            or a `.zip` of `.npy` latents; an array of images, a pair of arrays `(x, y)`, or a data
            source, which is returned as it is.
        image_size: side of the images in pixels. A folder needs it: its images are cropped to it.
            Arrays and latents must already have it.
        channels: number of channels. A folder's images are converted to it (default 3). Arrays
            and latents must already have it.
        on_error: `"raise"` or `"skip"`, for images of a folder that cannot be read.

    Raises:
        ValueError: for other data, another size or another number of channels.

    Example:

    >>> source = open_source((np.zeros((10, 28, 28), "uint8"), np.arange(10)), image_size=28)
    >>> source.shape, len(source)
    ((28, 28, 1), 10)
    """
    _check_kind(data)
    if hasattr(data, "take") and not hasattr(data, "__array__"):
        return data
    if isinstance(data, str) and data.partition(":")[0] == "digits":
        digits = ArraySource(*load_digits(data.partition(":")[2] or "all"))
        return _check_shape(digits, image_size, channels)
    store = _open_store(Path(data)) if isinstance(data, str | Path) else None
    if store is not None:
        return _check_shape(store, image_size, channels)
    if isinstance(data, str | Path) and Path(data).is_dir():
        if image_size is None:
            raise ValueError(f"image_size must be given for the folder {data}. Received None.")
        return ImageFolder(data, image_size, channels=channels or 3, on_error=on_error)
    return _check_shape(_open_arrays(data), image_size, channels)


def _check_kind(data):
    """Raise a ValueError for data sets of other libraries, some of which have a `take` too."""
    library = type(data).__module__.partition(".")[0]
    foreign = library in ("tensorflow", "datasets", "torch") and not hasattr(data, "__array__")
    if isinstance(data, dict) or foreign:
        names = f" of {', '.join(map(str, data))}" if isinstance(data, dict) else ""
        raise ValueError(
            "data must be a path, an array, a pair of arrays (x, y) or a data source. "
            f"Received: {type(data).__name__}{names}. Pass NumPy arrays, as in "
            "(data['image'], data['label'])."
        )


def _open_store(path):
    """A source of latents or of pairs, or None for any other path."""
    if path.is_dir() and is_pair_store(path):
        return PairStore(path)
    if path.is_dir() and is_store(path):
        return LatentStore(path)
    if path.is_dir() and next(path.glob("*.pt"), None):
        return TorchLatents(path)
    if path.suffix == ".zip" and path.is_file():
        return ZipLatents(path)
    return None


def _open_arrays(data):
    if isinstance(data, str | Path):
        return ArraySource(*load_arrays(data))
    x, y = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    if not hasattr(x, "__array__"):
        raise ValueError(
            "data must be the path of an .npz file or of a folder, an array, a pair of arrays or "
            f"a data source. Received {type(data).__name__}."
        )
    return ArraySource(check_images(np.asarray(x), "x"), y)


def _check_shape(source, image_size, channels):
    if image_size is channels is None:
        return source
    height, width, depth = source.shape
    if image_size not in (None, height) or image_size not in (None, width):
        raise ValueError(f"Images must be {image_size} pixels square. Received {height} x {width}.")
    if channels not in (None, depth):
        raise ValueError(f"Images must have {channels} channels. Received {depth}.")
    return source
