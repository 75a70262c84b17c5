"""Charts of several lines, and maps of values over two axes, drawn with Pillow only."""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (480, 330)  # width and height of a chart, in pixels
SHARP = 2  # drawn twice as large, then halved, for smooth lines
COLOURS = ("#1f4e79", "#c0504d", "#4f8f4f", "#b8860b", "#6f4fa0", "#3a9aa8", "#8c564b", "#555555")
PAPER, FRAME, GRID = "white", "#9a9a9a", "#e4e4e4"
SCALE = np.array([[13, 8, 60], [200, 60, 90], [250, 245, 190]])  # of a map: dark, red, bright


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart: points, and perhaps an interval around each.

    Args:
        x, y: (n,) numbers; points that are not finite are left out.
        low, high: (n,) ends of the intervals, or None.
    """

    x: object
    y: object
    low: object = None
    high: object = None

    def points(self):
        """(m, 4) finite rows of x, y, low, high, in the order of x."""
        low, high = (self.y if end is None else end for end in (self.low, self.high))
        rows = np.stack([np.asarray(a, float) for a in (self.x, self.y, low, high)], axis=1)
        rows = rows[np.isfinite(rows).all(axis=1)]
        return rows[np.argsort(rows[:, 0], kind="stable")]


def side_by_side(images):
    """Images of one height in a row."""
    whole = Image.new("RGB", (sum(i.width for i in images), images[0].height), PAPER)
    at = 0
    for image in images:
        whole.paste(image, (at, 0))
        at += image.width
    return whole


def line_chart(lines, *, title, x_label, y_label, log=None):
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
    log = low > 0 and high / low > 20 if log is None else log
    frame = _Frame(title, (every[:, 0].min(), every[:, 0].max()), (low, high), log)
    frame.axes(x_label, y_label)
    for i, rows in enumerate(points.values()):
        frame.line(rows, COLOURS[i % len(COLOURS)])
    frame.legend(list(points))
    return frame.image.resize(SIZE, Image.Resampling.BOX)


class _Frame:
    """A chart being drawn: from numbers to pixels."""

    left, top, right, bottom = 64, 28, SIZE[0] - 132, SIZE[1] - 44

    def __init__(self, title, x_range, y_range, log=False):
        self.image = Image.new("RGB", (SIZE[0] * SHARP, SIZE[1] * SHARP), PAPER)
        self.draw, self.font = ImageDraw.Draw(self.image), ImageFont.load_default(11 * SHARP)
        self.log, self.x_range = log, _widened(*x_range)
        low, high = y_range
        self.y_range = _widened(math.log10(low), math.log10(high)) if log else _widened(low, high)
        self.text(self.left, self.top - 10, title, "ls")

    def text(self, x, y, words, anchor, fill="black"):
        self.draw.text((x * SHARP, y * SHARP), words, fill=fill, font=self.font, anchor=anchor)

    def x(self, value):
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value):
        low, high = self.y_range
        value = math.log10(value) if self.log else value
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def stroke(self, points, fill, width=1):
        at = [(a * SHARP, b * SHARP) for a, b in points]
        self.draw.line(at, fill=fill, width=width * SHARP, joint="curve")

    def axes(self, x_label, y_label):
        """Grid, frame, ticks and labels."""
        left, top, right, bottom = self.left, self.top, self.right, self.bottom
        for tick in ticks(*self.x_range):
            self.stroke([(self.x(tick), top), (self.x(tick), bottom)], GRID)
            self.text(self.x(tick), bottom + 4, f"{tick:g}", "ma")
        for tick in log_ticks(*self.y_range) if self.log else ticks(*self.y_range):
            self.stroke([(left, self.y(tick)), (right, self.y(tick))], GRID)
            self.text(left - 5, self.y(tick), f"{tick:g}", "rm")
        self.draw.rectangle([SHARP * a for a in (left, top, right, bottom)], outline=FRAME)
        self.text((left + right) / 2, bottom + 34, x_label, "ms")
        self.text(right, top - 10, y_label + (" (log)" if self.log else ""), "rs", FRAME)

    def line(self, rows, colour):
        for x, _, low, high in rows:
            self.stroke([(self.x(x), self.y(low)), (self.x(x), self.y(high))], colour)
        at = [(self.x(x), self.y(y)) for x, y, _, _ in rows]
        if len(at) > 1:
            self.stroke(at, colour, width=2)
        for x, y in at if len(at) <= 30 else ():
            self.draw.circle((x * SHARP, y * SHARP), 2.5 * SHARP, fill=colour)

    def legend(self, names):
        for i, name in enumerate(names):
            y, colour = self.top + 8 + 16 * i, COLOURS[i % len(COLOURS)]
            self.stroke([(self.right + 8, y), (self.right + 22, y)], colour, width=3)
            self.text(self.right + 27, y, name, "lm")


def _widened(low, high):
    """The range with a little air at both ends, and never empty."""
    air = 0.04 * (high - low) or max(abs(low) * 0.1, 0.5)
    return low - air, high + air


def ticks(low, high, most=6):
    """Round numbers from `low` to `high`, `most` at the most: steps of 1, 2 or 5 times 10^n."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most) * power
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low, high):
    """1, 2 and 5 times powers of ten between `10^low` and `10^high`; over two decades 1 alone.

    Where fewer than two of them lie, round numbers.
    """
    factors = (1, 2, 5) if high - low < 2 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    every = [factor * 10.0**power for power in powers for factor in factors]
    inside = [tick for tick in every if 10**low <= tick <= 10**high]
    return inside if len(inside) > 1 else ticks(10**low, 10**high)


def heat_map(values, x, y, *, title, x_label, y_label):
    """A map of `values` (len(y), len(x)) over equally spaced x and y, each cell with its number.

    Dark is small, bright is large, on a logarithmic scale where all values are positive and span
    a factor of 10; cells that are not finite stay white.

    Example:
        >>> heat_map(norms, r, t, title="||du/dt||", x_label="r", y_label="t")
    """
    values = np.asarray(values, float)
    spans = [_cells(np.asarray(axis, float)) for axis in (x, y)]
    frame = _Frame(title, (0, 1), (0, 1))
    frame.x_range, frame.y_range = [(edges[0], edges[-1]) for edges in spans]
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    scale = np.log if low > 0 and high / low > 10 else np.asarray
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            share = _share(*(float(scale(a)) for a in (value, low, high)))
            _cell(frame, *spans[0][j : j + 2], *spans[1][i : i + 2], value, share)
    box = (frame.left, frame.top, frame.right, frame.bottom)
    frame.draw.rectangle([SHARP * a for a in box], outline=FRAME)
    for value in x:
        frame.text(frame.x(value), frame.bottom + 4, f"{value:.2g}", "ma")
    for value in y:
        frame.text(frame.left - 5, frame.y(value), f"{value:.2g}", "rm")
    frame.text((frame.left + frame.right) / 2, frame.bottom + 34, x_label, "ms")
    frame.text(frame.left - 30, frame.top - 10, y_label, "rs")
    _colour_bar(frame, low, high)
    return frame.image.resize(SIZE, Image.Resampling.BOX)


def _cells(middles):
    """The edges of cells around equally spaced middles."""
    half = (middles[1] - middles[0]) / 2 if len(middles) > 1 else 0.5
    return np.append(middles - half, middles[-1] + half)


def _cell(frame, x0, x1, y0, y1, value, share):
    corners = (frame.x(x0), frame.y(y1), frame.x(x1), frame.y(y0))
    frame.draw.rectangle([SHARP * a for a in corners], fill=_colour(share))
    middle = ((corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2)
    if corners[2] - corners[0] > 24:
        frame.text(*middle, f"{value:.2g}", "mm", "black" if share > 0.6 else "white")


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
