"""Read the texts of options that several commands have."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

    chosen = list(range(classes)) if text is None else _parse_labels(text, names)
    return np.resize(np.array(chosen, "int32"), count)


def _parse_labels(text, names):
    labels = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            known = part in names and not part.isdecimal()
            labels += [names.index(part)] if known else range(int(first), int(last or first) + 1)
    except ValueError:
        labels = []
    if not labels:
        classes = f" or names: {', '.join(names[:20])}" if names else ""
        raise ValueError(
            f"--labels are numbers, as in 3 or 0,1,2 or 0-9{classes}. Received: {text!r}."
        )
    return labels


def worker_of(text: str) -> tuple[int, int]:
    """(k, n) of a text like 0/4: the k-th of n processes."""
    k, slash, n = text.partition("/")
    if not (slash and k.isdigit() and n.isdigit()):
        raise ValueError(f"--worker is K/N, as in 0/4. Received: {text!r}.")
    return int(k), int(n)
