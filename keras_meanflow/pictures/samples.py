"""Pictures of samples and of training, drawn with Pillow only."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL = 48  # images smaller than this are enlarged, in whole steps
MARGIN = 2
PANEL = (420, 200)  # width and height of a panel of `curves`, in pixels
PAPER, INK, FAINT, POINT = "white", "#1f4e79", "#9a9a9a", (31, 78, 121, 110)


def draw_samples(samples, reference=None, *, columns=None):
    """The picture that fits the samples: a grid of images, or a scatter plot of vectors.

    Args:
        samples: (n, height, width, channels) in [-1, 1], or (n, 2).
        reference: data to draw behind a scatter plot.
        columns: of the grid.

    Raises:
        ValueError: for samples of any other shape.

    Example:
        >>> draw_samples(flow_map.generate(np.arange(10))).save("samples.png")
    """
    if samples.ndim == 4:
        return image_grid(samples, columns)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples, reference)
    raise ValueError(
        "Pictures are drawn of images (n, height, width, channels) and of points (n, 2). "
        f"Received: {samples.shape}."
    )


def image_grid(images, columns=None):
    """Images (n, height, width, channels) in [-1, 1], side by side from the top left.

    One channel is grey, three are RGB; of more (latents) the first three are shown.

    Raises:
        ValueError: if there are no images, or of two channels.
    """
    n, height, width, channels = images.shape
    if n < 1 or channels == 2:
        raise ValueError(
            f"A grid takes one image or more, of 1, 3 or more channels. Received: {images.shape}."
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


def to_pixels(images):
    """Floats in [-1, 1] to the nearest of 0..255, clipped."""
    return np.clip(np.round((np.asarray(images) + 1.0) * 127.5), 0, 255).astype("uint8")


def scatter(points, reference=None, *, size=512):
    """Points (n, 2), over the reference points in grey; both axes have the same scale."""
    everything = points if reference is None else np.concatenate([points, reference])
    finite = everything[np.isfinite(everything).all(axis=1)]
    middle = (finite.min(axis=0) + finite.max(axis=0)) / 2
    half = max(float((finite.max(axis=0) - finite.min(axis=0)).max()) / 2, 1e-6) * 1.05
    image = Image.new("RGB", (size, size), PAPER)
    draw = ImageDraw.Draw(image, "RGBA")
    for group, colour in ((reference, FAINT), (points, POINT)):
        for x, y in [] if group is None else (group - middle) / (2 * half) + 0.5:
            x, y = x * size, (1 - y) * size
            draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=colour)
    return image


def curves(x, lines, *, columns=2, intervals=None):
    """A panel for each of `lines`, name -> values over `x`; logarithmic where all are positive.

    `intervals`, name -> (low, high) at each x, are drawn as bars.
    """
    width, height = PANEL
    rows = math.ceil(len(lines) / columns)
    image = Image.new("RGB", (columns * width, rows * height), PAPER)
    for i, (name, values) in enumerate(lines.items()):
        at = (i % columns * width, i // columns * height)
        bars = (intervals or {}).get(name)
        image.paste(_panel(np.asarray(x, float), name, np.asarray(values, float), bars), at)
    return image


def _panel(x, name, values, bars=None):
    """One curve with its name, its last value, and the ends of both axes."""
    sharp = 2  # drawn twice as large, then halved, for smooth lines
    (width, height), font = PANEL, ImageFont.load_default(11 * sharp)
    left, top, right, bottom = 62, 24, width - 14, height - 24
    image = Image.new("RGB", (width * sharp, height * sharp), PAPER)
    draw = ImageDraw.Draw(image)

    def text(x, y, words, anchor, fill="black"):
        draw.text((x * sharp, y * sharp), words, fill=fill, font=font, anchor=anchor)

    draw.rectangle([sharp * a for a in (left, top, right, bottom)], outline=FAINT)
    finite = np.isfinite(values)
    if not finite.any():
        text(left, top - 5, f"{name}: no finite value", "ls")
        return image.resize(PANEL, Image.Resampling.BOX)
    ends = np.zeros((len(values), 0)) if bars is None else np.asarray(bars, float)
    x, values, ends = x[finite], values[finite], ends[finite]
    rows = np.column_stack([values, np.where(np.isfinite(ends), ends, values[:, None])])
    low, high = np.min(rows), np.max(rows)
    inset = 0 if bars is None else 10  # keeps bars off the frame
    across = sharp * (left + inset + _fractions(x) * (right - left - 2 * inset))
    heights = _fractions(np.log(rows) if low > 0 else rows)
    down, *ends = sharp * (bottom - heights * (bottom - top)).T
    points = list(zip(across, down, strict=True))
    draw.line(points, fill=INK, width=2 * sharp, joint="curve")
    for a, *bar in zip(across, *ends, strict=True):
        draw.line([(a, b) for b in bar], fill=INK, width=sharp)
    for point in points if len(points) == 1 or bars is not None else ():
        draw.circle(point, 2 * sharp, fill=INK)
    text(left, top - 5, f"{name}: {values[-1]:.4g}", "ls")
    text(right, top - 5, "log" if low > 0 else "linear", "rs", FAINT)
    text(left - 5, top, f"{high:.3g}", "rt")
    text(left - 5, bottom, f"{low:.3g}", "rb")
    text(left + inset, bottom + 5, f"{x[0]:.0f}", "ma" if inset else "la")
    text(right - inset, bottom + 5, f"{x[-1]:.0f}", "ma" if inset else "ra")
    return image.resize(PANEL, Image.Resampling.BOX)


def _fractions(a):
    """`a` brought to [0, 1] from its smallest to its largest value."""
    spread = a.max() - a.min()
    return (a - a.min()) / spread if spread > 0 else np.full_like(a, 0.5)
