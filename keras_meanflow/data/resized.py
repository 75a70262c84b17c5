"""Images at another size than the stored one."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from keras_meanflow.parts.ranges import check_sizes


class Resized:
    """A data source that resizes the square images of another source, bicubic.

    Args:
        source: a data source of images `(size, size, channels)` in [-1, 1].
        image_size: side of the new images, in pixels.

    Raises:
        ValueError: for images that are not square.

    Example:

    >>> source = Resized(ArraySource(np.zeros((3, 32, 32, 3), "uint8")), 64)
    >>> source.take([0])[0].shape
    (1, 64, 64, 3)
    """

    def __init__(self, source: Any, image_size: int):
        check_sizes(image_size=image_size)
        if len(source.shape) != 3 or source.shape[0] != source.shape[1]:
            raise ValueError(f"Only square images can be resized. Received {source.shape}.")
        self.source = source
        self.shape = (image_size, image_size, source.shape[2])
        self.class_names = getattr(source, "class_names", ())

    def __len__(self) -> int:
        return len(self.source)

    @property
    def num_classes(self) -> int | None:
        """The source's number of classes."""
        return self.source.num_classes

    def take(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the images at `indices`, float32 in [-1, 1], and their labels or None."""
        x, y = self.source.take(indices)
        planes = [_resize(plane, self.shape[0]) for item in x for plane in np.moveaxis(item, 2, 0)]
        resized = np.stack(planes).reshape(len(x), self.shape[2], *self.shape[:2])
        return np.moveaxis(resized, 1, 3).clip(-1, 1), y


def _resize(plane, size):
    image = Image.fromarray(np.ascontiguousarray(plane, "float32"))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
