"""EDM's augmentation: moves, scales and stretches images, and labels them with what was done."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# The low-pass filter of the sym6 wavelet, which enlarges and reduces images.
_SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)
_MARGIN = len(_SYM6) // 4  # pixels around the transformed image, cut off when it is reduced


class Augmentation(NamedTuple):
    """How each of n images is transformed; zeros and no mirror leave it unchanged.

    Args:
        mirror: (n,) booleans: swap left and right.
        scale: (n,) log2 of the enlargement.
        stretch: (n,) log2 of the enlargement along one axis and of the reduction across it.
        angle: (n,) direction of this axis, in radians.
        shift: (n, 2) to the right and down, as a fraction of the image's size.
    """

    mirror: np.ndarray
    scale: np.ndarray
    stretch: np.ndarray
    angle: np.ndarray
    shift: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Augmentation":
        """The augmentation of some rows."""
        return Augmentation(*(array[rows] for array in self))

    def inverse(self, width: int, height: int) -> np.ndarray:
        """(n, 3, 3) matrices from positions in the result to the image, both from the centre."""
        size = np.array([width, height])
        scaled = _diagonal(2.0**-self.scale, 2.0**-self.scale)
        stretched = _diagonal(2.0**-self.stretch, 2.0**self.stretch)
        stretched = _rotation(-self.angle) @ stretched @ _rotation(self.angle)
        moved = np.tile(np.eye(3), (len(self.scale), 1, 1))
        moved[:, :2, 2] = -self.shift * size
        return scaled @ stretched @ moved


def augment(x: np.ndarray, how: Augmentation) -> np.ndarray:
    """Returns images (n, height, width, channels) augmented, float32.

    The steps: mirror, reflect at the border, enlarge by two with a wavelet, move with bilinear
    interpolation, reduce by two. Rows that do not move are only mirrored, because this is faster.

    References:
        Karras et al., EDM (arXiv 2206.00364), appendix F.2; Gsunshine/py-meanflow `augment.py`.
    """
    x = np.where(how.mirror[:, None, None, None], x[:, :, ::-1], x)
    moved = np.flatnonzero(how.scale.astype(bool) | how.stretch.astype(bool) | how.shift.any(1))
    if len(moved):
        x[moved] = _transform(x[moved], how.take(moved))
    return x


def _transform(x, how):
    n, height, width, channels = x.shape
    inverse = how.inverse(width, height)
    left, top, right, bottom = _margins(inverse, width, height)
    rows = _enlarge(_reflect(height, top, bottom))  # (height', height)
    columns = _enlarge(_reflect(width, left, right))
    planes = np.moveaxis(x, 3, 1).astype("float32")
    planes = rows @ planes @ columns.T  # (n, channels, height', width')
    centre = np.array([left - right, top - bottom]) / 2
    inverse[:, :2, 2] += centre
    sides = height + 2 * _MARGIN, width + 2 * _MARGIN
    planes = _sample(planes, inverse, 2 * sides[0], 2 * sides[1])
    planes = _reduce(height) @ planes @ _reduce(width).T
    return np.moveaxis(planes, 1, 3).astype("float32")


def _margins(inverse, width, height):
    """Pixels needed beyond the image: left, top, right, bottom."""
    half = np.array([(width - 1) / 2, (height - 1) / 2])
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]]) * [*half, 1]
    reached = (inverse @ corners.T)[:, :2].transpose(1, 0, 2).reshape(2, -1)
    margin = np.concatenate([-reached.min(1), reached.max(1)]) + 2 * _MARGIN - np.tile(half, 2)
    most = np.tile([width - 1, height - 1], 2)
    return np.ceil(np.clip(margin, 0, most)).astype(int)


def _reflect(size, before, after):
    """(before + size + after, size): the image reflected at its border pixels."""
    return np.eye(size)[np.pad(np.arange(size), (before, after), mode="reflect")]


def _enlarge(matrix):
    """Twice as many rows, by the wavelet."""
    rows, taps = len(matrix), len(_SYM6)
    k = 2 * np.arange(rows)[None] - np.arange(2 * rows)[:, None] + taps // 2
    filters = np.where((k >= 0) & (k < taps), _SYM6[::-1][np.clip(k, 0, taps - 1)], 0.0)
    return (filters @ matrix).astype("float32")


def _reduce(size):
    """(size, 2 size + 4 margin): reduces by two with the wavelet and cuts off the margin."""
    taps = len(_SYM6)
    wide = 2 * (size + 2 * _MARGIN)
    k = np.arange(wide)[None] - 2 * (np.arange(size)[:, None] + _MARGIN) + (taps - 1) // 2
    return np.where((k >= 0) & (k < taps), _SYM6[np.clip(k, 0, taps - 1)], 0.0).astype("float32")


def _sample(planes, inverse, height, width):
    """Planes (height, width), read at `inverse` of each position: bilinear, zero outside."""
    n, _, from_height, from_width = planes.shape
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    # Position p of an image, from its centre, is position 2 p - 1/2 of the enlarged image.
    places = np.stack([(x + 0.5) / 2, (y + 0.5) / 2, np.ones_like(x)]).reshape(3, -1)
    columns, rows = 2 * (inverse @ places)[:, :2].transpose(1, 0, 2) - 0.5
    columns, rows = columns + (from_width - 1) / 2, rows + (from_height - 1) / 2
    left, top = np.floor(columns).astype(int), np.floor(rows).astype(int)
    out = np.zeros((n, planes.shape[1], height * width), "float32")
    flat = planes.reshape(*planes.shape[:2], -1)
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight = (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
            inside = (row >= 0) & (row < from_height) & (column >= 0) & (column < from_width)
            index = np.where(inside, row * from_width + column, 0)
            weight = np.where(inside, weight, 0.0).astype("float32")
            out += np.take_along_axis(flat, index[:, None], axis=2) * weight[:, None]
    return out.reshape(*planes.shape[:2], height, width)


def _diagonal(x, y):
    matrix = np.zeros((len(x), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = x, y, 1.0
    return matrix


def _rotation(angle):
    matrix = _diagonal(np.cos(angle), np.cos(angle))
    matrix[:, 1, 0], matrix[:, 0, 1] = np.sin(angle), -np.sin(angle)
    return matrix


class EDMAugmented:
    """A data source that augments the images of another, and describes it in the condition.

    Each image is mirrored with probability 1/2 without a label, then again with a label. It is
    scaled, stretched and moved, each with probability p. The condition of a batch is
    {"augmentation": (n, 6)}: mirror, scale, stretch along x and y, shift along x and y, in units of
    their standard deviations. Without this condition, a trained network makes unaltered images.

    Args:
        source: a data source of images.
        p: probability of each of the three; 0.12 on CIFAR-10.
        labelled: whether the condition also holds the source's "labels".
        scale_std, stretch_std: standard deviations of the log2 of the sizes.
        shift_std: standard deviation of the shift, as a fraction of the image's size.

    Raises:
        ValueError: if the source has no images, or has no labels with `labelled=True`.

    Example:

    >>> source = EDMAugmented(ArraySource(np.zeros((9, 32, 32, 3), "uint8")))
    >>> x, condition = source.draw(np.arange(4), np.random.default_rng(0))
    >>> x.shape, condition["augmentation"].shape
    ((4, 32, 32, 3), (4, 6))

    References:
        Karras et al., EDM (arXiv 2206.00364), table 6, without rotations and vertical mirroring, as
        in Mean Flows (arXiv 2505.13447); Gsunshine/py-meanflow `train_loop.py`.
    """

    def __init__(
        self,
        source: Any,
        p: float = 0.12,
        *,
        labelled: bool = False,
        scale_std: float = 0.2,
        stretch_std: float = 0.2,
        shift_std: float = 0.125,
    ):
        if len(source.shape) != 3:
            raise ValueError(f"Only images are augmented. Received: {source.shape}.")
        if labelled and source.num_classes is None:
            raise ValueError("labelled=True needs a source with labels. Received: one without.")
        self.source, self.p, self.labelled = source, p, labelled
        self.scale_std, self.stretch_std, self.shift_std = scale_std, stretch_std, shift_std

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """The source's shape."""
        return self.source.shape

    @property
    def num_classes(self) -> int | None:
        """The source's number of classes."""
        return self.source.num_classes

    def take(self, indices: ArrayLike) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the items at `indices`, not augmented, and their labels or None."""
        return self.source.take(indices)

    def draw(
        self, indices: ArrayLike, generator: np.random.Generator, rows: slice = slice(None)
    ) -> tuple[np.ndarray, dict]:
        """Returns the items at `indices`, augmented by draws of `generator`, and the condition.

        Only the `rows` are read and returned.
        """
        unlabelled = generator.random(len(indices))[rows] < 0.5
        how, labels = self._draw(len(indices), generator)
        how = how.take(rows)
        x, y = self.source.take(np.asarray(indices)[rows])
        condition = {"augmentation": labels[rows]}
        if self.labelled:
            condition["labels"] = y
        x = np.where(unlabelled[:, None, None, None], x[:, :, ::-1], x)
        return augment(x, how), condition

    def _draw(self, n, generator):
        """An `Augmentation`, and the (n, 6) labels that describe it."""
        normals = generator.standard_normal((4, n)).astype("float32")
        done = generator.random((3, n)) < self.p
        scale, stretch = normals[0] * done[0], normals[1] * done[1]
        shift = np.stack([normals[2] * done[2], normals[3] * done[2]], axis=1)
        turned = generator.random(n) < 0.5
        angle = (generator.random(n, "float32") * 2 - 1) * np.float32(np.pi) * turned
        mirror = generator.random(n) < 0.5
        along = [stretch * np.cos(angle), stretch * np.sin(angle)]
        labels = np.stack([mirror, scale, *along, *shift.T], axis=1).astype("float32")
        how = Augmentation(
            mirror,
            scale * self.scale_std,
            stretch * self.stretch_std,
            angle,
            shift * self.shift_std,
        )
        return how, labels
