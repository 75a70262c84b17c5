"""The one drawing engine: a frame with axes, ticks, lines and dots, drawn with Pillow only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

LEFT, TOP, RIGHT, BOTTOM = 70, 28, 16, 44  # pixels between the frame and the picture's edges
LEGEND = 132  # replaces RIGHT where a legend or a colour bar is drawn
SHARP = 2  # drawn twice as large, then halved, for smooth lines
COLOURS = ("#1f4e79", "#c0504d", "#4f8f4f", "#b8860b", "#6f4fa0", "#3a9aa8", "#8c564b", "#555555")
PAPER, INK, EDGE, GRID, NOTE = "white", "black", "#9a9a9a", "#e4e4e4", "#707070"


class Frame:
    """A chart that is being drawn: its picture, and where numbers lie in it.

    Args:
        x_range, y_range: (low, high), the numbers at the ends of the axes.
        size: width and height of the picture in pixels.
        title: text above the frame, at the left.
        beside: pixels to the right of the frame.
        log: whether y is logarithmic.
    """

    def __init__(
        self,
        x_range: tuple[float, float],
        y_range: tuple[float, float],
        *,
        size: tuple[int, int],
        title: str = "",
        beside: int = RIGHT,
        log: bool = False,
    ):
        self.size, self.left, self.top = size, LEFT, TOP
        self.right, self.bottom = size[0] - beside, size[1] - BOTTOM
        self.image = Image.new("RGB", (size[0] * SHARP, size[1] * SHARP), PAPER)
        self.draw = ImageDraw.Draw(self.image, "RGBA")  # RGBA: colours may be transparent
        self.font = ImageFont.load_default(11 * SHARP)
        self.x_range, self.y_range, self.log = x_range, y_range, log
        self.text(self.left, self.top - 10, title, "ls")

    def finished(self) -> Image.Image:
        """The picture in its size."""
        return self.image.resize(self.size, Image.Resampling.BOX)

    def text(self, x: float, y: float, words: str, anchor: str, fill: str = INK) -> None:
        """Write at pixel (x, y); the anchor is Pillow's."""
        self.draw.text((x * SHARP, y * SHARP), words, fill=fill, font=self.font, anchor=anchor)

    def upright(self, x: float, y: float, words: str) -> None:
        """Write from bottom to top, with pixel (x, y) in the middle."""
        _, _, width, height = map(math.ceil, self.font.getbbox(words))
        mask = Image.new("L", (width + 1, height + 1))
        ImageDraw.Draw(mask).text((0, 0), words, fill=255, font=self.font)
        mask = mask.rotate(90, expand=True)
        corner = (round(x * SHARP - mask.width / 2), round(y * SHARP - mask.height / 2))
        self.image.paste(INK, corner, mask)

    def x(self, value: float) -> float:
        """The pixel of a number on the x axis."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """The pixel of a number on the y axis."""
        low, high, value = (math.log10(a) if self.log else a for a in (*self.y_range, value))
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    def stroke(self, points: Sequence[tuple[float, float]], fill: str, width: int = 1) -> None:
        """A line through pixels."""
        at = [(a * SHARP, b * SHARP) for a, b in points]
        self.draw.line(at, fill=fill, width=width * SHARP, joint="curve")

    def dots(
        self, points: Sequence[tuple[float, float]], fill: str | tuple, radius: float = 2.5
    ) -> None:
        """A disc at each pixel."""
        for x, y in points:
            self.draw.circle((x * SHARP, y * SHARP), radius * SHARP, fill=fill)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, **colours: Any
    ) -> None:
        """A rectangle between pixels; `fill` and `outline` are Pillow's."""
        self.draw.rectangle([SHARP * a for a in (left, top, right, bottom)], **colours)

    def axes(
        self,
        x_label: str,
        y_label: str,
        *,
        note: str = "",
        at: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> None:
        """Draw frame, ticks and labels.

        Args:
            x_label, y_label: names of the axes.
            note: text above the frame, at the right.
            at: the ticks of x and of y; by default round numbers, with a grid.
        """
        left, top, right, bottom = self.left, self.top, self.right, self.bottom
        y_ticks = log_ticks if self.log else ticks
        xs, ys = (ticks(*self.x_range), y_ticks(*self.y_range)) if at is None else at
        digits = "g" if at is None else ".2g"
        for tick in xs:
            if at is None:
                self.stroke([(self.x(tick), top), (self.x(tick), bottom)], GRID)
            self.text(self.x(tick), bottom + 4, f"{tick:{digits}}", "ma")
        for tick in ys:
            if at is None:
                self.stroke([(left, self.y(tick)), (right, self.y(tick))], GRID)
            self.text(left - 5, self.y(tick), f"{tick:{digits}}", "rm")
        self.rectangle(left, top, right, bottom, outline=EDGE)
        self.text((left + right) / 2, bottom + 34, x_label, "ms")
        self.upright(13, (top + bottom) / 2, y_label)
        notes = filter(None, (note, "log" if self.log else ""))
        self.text(right, top - 10, ", ".join(notes), "rs", NOTE)

    def line(self, rows: np.ndarray, colour: str) -> None:
        """Draw (n, 4) rows of x, y, low, high: a line with bars, and dots where there are few."""
        for x, _, low, high in rows:
            self.stroke([(self.x(x), self.y(low)), (self.x(x), self.y(high))], colour)
        at = [(self.x(x), self.y(y)) for x, y, _, _ in rows]
        if len(at) > 1:
            self.stroke(at, colour, width=2)
        if len(at) <= 30:
            self.dots(at, colour)

    def legend(self, names: Sequence[str], colours: Sequence = COLOURS) -> None:
        """Draw a stroke and a name for each line, to the right of the frame."""
        for i, name in enumerate(names):
            y, colour = self.top + 8 + 16 * i, colours[i % len(colours)]
            self.stroke([(self.right + 8, y), (self.right + 22, y)], colour, width=3)
            self.text(self.right + 27, y, name, "lm")


def widened(low: float, high: float, log: bool = False) -> tuple[float, float]:
    """The range with a small margin at both ends; never empty."""
    if log:
        low, high = widened(math.log10(low), math.log10(high))
        return 10.0**low, 10.0**high
    air = 0.04 * (high - low) or max(abs(low) * 0.1, 0.5)
    return low - air, high + air


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` round numbers from `low` to `high`: steps of 1, 2 or 5 times 10^n."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(s for s in (1, 2, 5, 10, 20) if (high - low) / (s * power) <= most) * power
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Powers of ten from `low` to `high`, with 2 and 5 times them where the range is narrow.

    Where fewer than three of these numbers are in the range, the result is that of `ticks`.
    """
    decades = math.log10(high / low)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    powers = [power for power in powers if power % math.ceil(decades / most) == 0]
    factors = (1, 2, 5) if decades < 2 else (1,)
    every = [factor * 10.0**power for power in powers for factor in factors]
    inside = [tick for tick in every if low <= tick <= high]
    return inside if len(inside) > 2 else ticks(low, high)
