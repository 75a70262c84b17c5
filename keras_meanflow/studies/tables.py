"""Rows of numbers: their CSV file, and the lines of a chart that they make."""

import csv
from pathlib import Path

import numpy as np

from keras_meanflow.files.atomic import write_atomically
from keras_meanflow.pictures.charts import Series


def write_table(path, rows):
    """Write rows, dicts of values, as CSV, with a column for each name that occurs."""
    columns = list(dict.fromkeys(name for row in rows for name in row))

    def write(path):
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), write)


def write_figure(path, image):
    """Write a picture as PNG, complete or not at all."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(Path(path), lambda path: image.save(path, "PNG"))


def series_of(rows, x, y):
    """The mean of column `y` at each value of column `x`, with its least and greatest values."""
    rows = [row for row in rows if y in row]
    places = sorted({row[x] for row in rows})
    values = [np.array([row[y] for row in rows if row[x] == place], float) for place in places]
    mean, low, high = ([f(v) for v in values] for f in (np.mean, np.min, np.max))
    return Series(x=places, y=mean, low=low, high=high)


def series_by(rows, x, y, *, by):
    """`series_of` the rows that share a value of column `by`, under that value's name."""
    values = dict.fromkeys(row[by] for row in rows)
    return {str(value): series_of([r for r in rows if r[by] == value], x, y) for value in values}
