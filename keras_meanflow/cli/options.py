"""The types and the texts of options that several commands have."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import numpy as np


def labels_of(
    text: str | None, count: int, classes: int | None, names: tuple[str, ...] = ()
) -> np.ndarray | int:
    """`count` labels for `generate`, in turn, from numbers or names; without classes, `count`."""
    if classes is None:
        if text is not None:
            raise ValueError("This model is unconditional: leave --labels out.")
        return count
    import numpy as np

    chosen = list(range(classes)) if text is None else _parse_labels(text, classes, names)
    return np.resize(np.array(chosen, "int32"), count)


def _parse_labels(text, classes, names):
    try:
        labels = [label for part in text.split(",") for label in _labels_of(part, classes, names)]
    except ValueError as error:
        named = f" or names: {', '.join(names[:20])}" if names else ""
        raise ValueError(
            f"--labels are numbers in 0..{classes - 1}, as in 3 or 0,1,2 or 0-9{named}. "
            f"Received: {text!r}."
        ) from error
    return labels


def _labels_of(part, classes, names):
    if part in names and not part.isdecimal():
        return [names.index(part)]
    first, _, last = part.partition("-")
    first, last = int(first), int(last or first)
    if not 0 <= first <= last <= classes:  # `classes` is the null label
        raise ValueError
    return range(first, last + 1)


def worker_of(text: str) -> tuple[int, int]:
    """(k, n) of a text like 0/4: the k-th of n processes."""
    k, slash, n = text.partition("/")
    if not (slash and k.isdigit() and n.isdigit()):
        raise ValueError(f"--worker is K/N, as in 0/4. Received: {text!r}.")
    return int(k), int(n)


class Number(click.FloatRange):
    """An option's finite number, in a range as for `click.FloatRange`."""

    def convert(self, value: Any, param: Any, context: Any) -> float:
        """The number; the command fails for another text."""
        number = super().convert(value, param, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, context)
        return number


class Out(click.Path):
    """A path to write to: nothing but a file (or a folder) is there, and it can be written.

    Args:
        kinds: what may be there already: "file", "folder".
    """

    def __init__(self, *kinds: str):
        super().__init__()
        self.kinds = kinds

    def convert(self, value: Any, param: Any, context: Any) -> str:
        """The path; the command fails for another one, before it computes anything."""
        path, wanted = Path(value), " or a ".join(self.kinds)
        try:
            there = path.exists() or path.is_symlink()
        except OSError as error:  # a name that is too long
            self.fail(f"{str(path)[:80]}...: {error.strerror}.", param, context)
        kind = "file" if path.is_file() else "folder" if path.is_dir() else "special file"
        if there and kind not in self.kinds:
            self.fail(f"{path} is a {kind}. Name a {wanted}.", param, context)
        above = path if there else next(one for one in path.absolute().parents if one.exists())
        if not there and not above.is_dir():
            self.fail(f"{above} is no folder, so {path} cannot be made.", param, context)
        if not os.access(above, os.W_OK):
            self.fail(f"{above} cannot be written to.", param, context)
        return value


SIDE = click.IntRange(1, 8192)  # of an image, in pixels: a batch of larger ones fills the memory
OUT_FILE, OUT_FOLDER, OUT = Out("file"), Out("folder"), Out("file", "folder")
