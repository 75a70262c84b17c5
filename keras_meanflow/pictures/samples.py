"""Pictures of samples: grids of images, and scatter plots of points."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from keras_meanflow.pictures.frame import BOTTOM, LEFT, LEGEND, RIGHT, TOP, Frame

CELL = 48  # smaller images are enlarged by a whole factor, up to this size in pixels
MARGIN = 2
POINTS = {"data": (140, 140, 140, 190), "samples": (31, 78, 121, 110)}  # red, green, blue, opacity


def draw_samples(
    samples: np.ndarray, reference: np.ndarray | None = None, *, columns: int | None = None
) -> Image.Image:
    """A grid of images, or a scatter plot of points.

    Args:
        samples: (n, height, width, channels) in [-1, 1], or vectors (n, d), of which the first two
            numbers are drawn.
        reference: data to draw behind a scatter plot.
        columns: of the grid.

    Raises:
        ValueError: for samples of another shape.

    Example:
        >>> draw_samples(flow_map.generate(np.arange(10))).save("samples.png")
    """
    if samples.ndim == 4:
        return image_grid(samples, columns)
    if samples.ndim == 2 and samples.shape[1] >= 2:
        return scatter(samples[:, :2], None if reference is None else reference[:, :2])
    raise ValueError(
        "Only images (n, height, width, channels) and vectors (n, 2 or more) can be drawn. "
        f"Received: {samples.shape}."
    )


def image_grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
    """Images (n, height, width, channels) in [-1, 1], row by row from the top left.

    One channel is grey, three are RGB. If there are more (latents), the first three are shown.

    Raises:
        ValueError: if there are no images, or if they have two channels.
    """
    n, height, width, channels = images.shape
    if n < 1 or channels == 2:
        raise ValueError(
            f"A grid needs one image or more, with 1, 3 or more channels. Received: {images.shape}."
        )
    columns = min(columns or math.ceil(math.sqrt(n)), n)
    rows = math.ceil(n / columns)
    pixels = to_pixels(images[..., : 1 if channels == 1 else 3])
    cells = np.full((rows * columns, height, width, pixels.shape[-1]), 255, "uint8")
    cells[:n] = pixels
    scale = max(1, CELL // min(height, width))
    cells = cells.repeat(scale, axis=1).repeat(scale, axis=2)
    edge = ((0, 0), (0, MARGIN), (0, MARGIN), (0, 0))
    cells = np.pad(cells, edge, constant_values=255)
    height, width, depth = cells.shape[1:]
    grid = cells.reshape(rows, columns, height, width, depth).transpose(0, 2, 1, 3, 4)
    grid = grid.reshape(rows * height, columns * width, depth)[:-MARGIN, :-MARGIN]
    return Image.fromarray(grid[..., 0] if depth == 1 else grid)


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Floats in [-1, 1] to the nearest integer of 0..255, clipped."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype("uint8")


def scatter(
    points: np.ndarray, reference: np.ndarray | None = None, *, size: int = 440
) -> Image.Image:
    """Points (n, 2), over the reference points in grey; both axes have the same scale.

    Args:
        points: samples; points that are not finite are left out.
        reference: data to draw behind them.
        size: width and height of the square between the axes, in pixels.
    """
    groups = {"samples": points} if reference is None else {"data": reference, "samples": points}
    groups = {name: group[np.isfinite(group).all(axis=1)] for name, group in groups.items()}
    everything = np.concatenate([*groups.values()])
    everything = everything if len(everything) else np.zeros((1, 2))
    middle = (everything.min(axis=0) + everything.max(axis=0)) / 2
    half = max(float(np.ptp(everything, axis=0).max()) / 2, 1e-6) * 1.05
    beside = RIGHT if reference is None else LEGEND
    frame = Frame(
        *((m - half, m + half) for m in middle),
        size=(LEFT + size + beside, TOP + size + BOTTOM),
        beside=beside,
    )
    frame.axes("x[0]", "x[1]")
    for name, group in groups.items():
        frame.dots([(frame.x(a), frame.y(b)) for a, b in group], POINTS[name], radius=1.5)
    if reference is not None:
        frame.legend(list(groups), [POINTS[name] for name in groups])
    return frame.finished()
