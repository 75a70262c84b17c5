"""Tables of results: written as CSV, and turned into the lines of a chart."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from keras_meanflow.files.atomic import write_atomically
from keras_meanflow.pictures.charts import Series


def write_table(path: str | Path, rows: list[dict]) -> None:
    """Write dicts as the rows of a CSV file, with a column for each key."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def write(path):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), write)


def write_figure(path: str | Path, image: Image.Image) -> None:
    """Write a picture as PNG; an interrupted write leaves no file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), lambda path: image.save(path, "PNG"))


def series_of(rows: list[dict], x: str, y: str) -> Series:
    """The mean, smallest and largest value of column `y` at each value of column `x`."""
    rows = [row for row in rows if y in row]
    places = sorted({row[x] for row in rows})
    values = [np.array([row[y] for row in rows if row[x] == place], float) for place in places]
    mean, low, high = ([f(v) for v in values] for f in (np.mean, np.min, np.max))
    return Series(x=places, y=mean, low=low, high=high)


def series_by(rows: list[dict], x: str, y: str, *, by: str) -> dict[str, Series]:
    """For each value of column `by`, the `series_of` the rows with this value."""
    values = dict.fromkeys(row[by] for row in rows)
    return {str(value): series_of([r for r in rows if r[by] == value], x, y) for value in values}
