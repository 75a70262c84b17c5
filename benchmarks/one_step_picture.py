"""The picture of the README: real digits beside samples that took one call of the network each.

    keras-meanflow train digits
    python benchmarks/one_step_picture.py runs/digits docs/one_step.png

The real digits are those that training does not see. Sample i starts from the noise of image i of
seed 0; none is chosen by hand.
"""

import argparse
import os

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CLASSES, ROWS, CELL, GAP, HEAD = 10, 6, 40, 40, 44
INK, GREY = (20, 24, 40), (110, 116, 130)


def main():
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="of `keras-meanflow train digits`")
    parser.add_argument("out", help="the picture")
    arguments = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from keras_meanflow import open_model
    from keras_meanflow.data import load_digits

    x, y = load_digits("test")
    real = np.stack([x[np.flatnonzero(y == label)[:ROWS]] for label in range(CLASSES)], axis=1)
    labels = np.tile(np.arange(CLASSES), ROWS)
    made = open_model(arguments.run).flow_map.generate(labels, steps=1, seed=0)
    halves = [
        ("The real thing", "digits that training never saw", real.reshape(made.shape)),
        ("One step", "one call of the network each, by class", made),
    ]
    side_by_side(halves).save(arguments.out, optimize=True)


def side_by_side(halves):
    """A picture of (title, subtitle, images) from left to right."""
    width, height = CLASSES * CELL, ROWS * CELL
    page = Image.new("RGB", (2 * width + 3 * GAP, height + HEAD + GAP + 12), "white")
    draw = ImageDraw.Draw(page)
    for i, (title, subtitle, images) in enumerate(halves):
        left = GAP + i * (width + GAP)
        draw.text((left, GAP - 18), title, INK, ImageFont.load_default(24))
        draw.text((left, GAP + 12), subtitle, GREY, ImageFont.load_default(15))
        page.paste(grid(images), (left, GAP + HEAD))
    return page


def grid(images):
    """Images (rows * classes, 8, 8, 1) in [-1, 1], dark on white, each enlarged to a cell."""
    pixels = np.clip(127.5 - 127.5 * images[..., 0], 0, 255).astype("uint8")
    size = (CELL - 4, CELL - 4)
    page = Image.new("L", (CLASSES * CELL, ROWS * CELL), 255)
    for i, one in enumerate(pixels):
        cell = Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)
        page.paste(cell, (i % CLASSES * CELL, i // CLASSES * CELL))
    return page


if __name__ == "__main__":
    main()
