"""Charts with axes, drawn with Pillow only: lines, small panels of curves, maps of values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from keras_meanflow.pictures.frame import COLOURS, LEGEND, PAPER, Frame, widened

SIZE, PANEL = (480, 330), (420, 200)  # width and height of a chart and of a panel, in pixels
SCALE = np.array([[13, 8, 60], [200, 60, 90], [250, 245, 190]])  # of a map: dark, red, bright


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart: points, and optionally an interval around each.

    Args:
        x, y: (n,) numbers; points that are not finite are left out.
        low, high: (n,) ends of the intervals, or None; an end that is not finite counts as y.
    """

    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None

    def points(self) -> np.ndarray:
        """(m, 4) finite rows of x, y, low, high, sorted by x."""
        x, y = (np.asarray(a, float) for a in (self.x, self.y))
        ends = (y if end is None else np.asarray(end, float) for end in (self.low, self.high))
        rows = np.stack([x, y, *(np.where(np.isfinite(end), end, y) for end in ends)], axis=1)
        rows = rows[np.isfinite(rows).all(axis=1)]
        return rows[np.argsort(rows[:, 0], kind="stable")]


def side_by_side(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Images of one size, row by row from the top left; in one row by default."""
    columns = columns or len(images)
    width, height = images[0].size
    shape = (columns * width, math.ceil(len(images) / columns) * height)
    whole = Image.new("RGB", shape, PAPER)
    for i, image in enumerate(images):
        whole.paste(image, (i % columns * width, i // columns * height))
    return whole


def line_chart(
    lines: Mapping[str, Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log: bool | None = None,
) -> Image.Image:
    """Lines by name in one frame, with ticks on both axes and a legend.

    Args:
        lines: name -> `Series`.
        title, x_label, y_label: texts.
        log: whether y is logarithmic; by default where all is positive and spans a factor of 20.

    Example:
        >>> line_chart({"seed 0": Series(x=[0, 1], y=[2, 3])}, title="", x_label="k", y_label="FID")
    """
    points = {name: line.points() for name, line in lines.items()}
    every = np.concatenate([rows for rows in points.values() if len(rows)] or [np.zeros((1, 4))])
    low, high = every[:, 1:].min(), every[:, 1:].max()
    log = bool(low > 0 and high / low > 20) if log is None else log
    ranges = widened(every[:, 0].min(), every[:, 0].max()), widened(low, high, log)
    frame = Frame(*ranges, size=SIZE, title=title, beside=LEGEND, log=log)
    frame.axes(x_label, y_label)
    for i, rows in enumerate(points.values()):
        frame.line(rows, COLOURS[i % len(COLOURS)])
    frame.legend(list(points))
    return frame.finished()


def curves(
    x: ArrayLike,
    lines: Mapping[str, ArrayLike],
    *,
    columns: int = 2,
    intervals: Mapping[str, ArrayLike] | None = None,
    x_label: str = "step",
) -> Image.Image:
    """A small panel for each line; y is logarithmic where all its values are positive.

    All panels have the same x axis.

    Args:
        x: (n,) numbers, at least one.
        lines: name -> (n,) values over `x`.
        columns: panels in a row.
        intervals: name -> (n, 2) ends of the interval at each x, drawn as bars.
        x_label: name of the x axis.

    Example:
        >>> curves([100, 200, 300], {"loss": [1.0, 0.9, 0.8]}).save("curve.png")
    """
    x = np.asarray(x, float)
    panels = []
    for name, values in lines.items():
        ends = (intervals or {}).get(name)
        low, high = (None, None) if ends is None else np.asarray(ends, float).T
        rows = Series(x=x, y=values, low=low, high=high).points()
        panels.append(_panel(name, rows, widened(x.min(), x.max()), x_label))
    return side_by_side(panels, columns)


def _panel(name, rows, x_range, x_label):
    """A chart of one line, with its last value above the frame."""
    low, high = (rows[:, 1:].min(), rows[:, 1:].max()) if len(rows) else (0.0, 1.0)
    log = bool(low > 0)
    frame = Frame(x_range, widened(low, high, log), size=PANEL, title=name, log=log)
    note = f"last {rows[-1, 1]:.4g}" if len(rows) else "no finite value"
    frame.axes(x_label, "", note=note)
    frame.line(rows, COLOURS[0])
    return frame.finished()


def heat_map(
    values: ArrayLike, x: ArrayLike, y: ArrayLike, *, title: str, x_label: str, y_label: str
) -> Image.Image:
    """A map of `values` (len(y), len(x)) over equally spaced x and y, each cell with its number.

    Dark is small, bright is large. The scale is logarithmic where all values are positive and span
    a factor of 10. Cells that are not finite stay white.

    Example:
        >>> heat_map(norms, r, t, title="||du/dt||", x_label="r", y_label="t")
    """
    values = np.asarray(values, float)
    edges = [_edges(np.asarray(axis, float)) for axis in (x, y)]
    ranges = [(axis[0], axis[-1]) for axis in edges]
    frame = Frame(*ranges, size=SIZE, title=title, beside=LEGEND)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    scale = np.log if low > 0 and high / low > 10 else np.asarray
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            share = _share(*(float(scale(a)) for a in (value, low, high)))
            _cell(frame, edges[0][j : j + 2], edges[1][i : i + 2], value, share)
    frame.axes(x_label, y_label, at=(x, y))
    _colour_bar(frame, low, high)
    return frame.finished()


def _edges(middles):
    """The edges of cells around equally spaced middles."""
    half = (middles[1] - middles[0]) / 2 if len(middles) > 1 else 0.5
    return np.append(middles - half, middles[-1] + half)


def _cell(frame, x, y, value, share):
    (left, right), (bottom, top) = map(frame.x, x), map(frame.y, y)
    frame.rectangle(left, top, right, bottom, fill=_colour(share))
    if right - left > 24:
        colour = "black" if share > 0.6 else "white"
        frame.text((left + right) / 2, (top + bottom) / 2, f"{value:.2g}", "mm", colour)


def _colour_bar(frame, low, high):
    left, height = frame.right + 16, frame.bottom - frame.top
    for row in range(int(height)):
        y = frame.bottom - row
        frame.stroke([(left, y), (left + 14, y)], _colour(row / height))
    frame.text(left + 19, frame.top, f"{high:.3g}", "lt")
    frame.text(left + 19, frame.bottom, f"{low:.3g}", "lb")


def _share(value, low, high):
    return (value - low) / (high - low) if high > low else 0.5


def _colour(share):
    """From dark over red to bright."""
    place = share * (len(SCALE) - 1)
    i = min(int(place), len(SCALE) - 2)
    return tuple(int(c) for c in SCALE[i] + (place - i) * (SCALE[i + 1] - SCALE[i]))
