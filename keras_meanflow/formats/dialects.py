"""How torch, flax and diffusers name and lay out the tensors of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from keras_meanflow.formats import turns
from keras_meanflow.formats.turns import Row


class Dialect(NamedTuple):
    """For each kind of layer (our weight's name, their ending, turn), and the spelling of paths."""

    kinds: dict
    path: Callable = lambda path: path
    patch: Callable = lambda shape: (shape[2], shape[1])  # (patch size, channels) of the kernel

    def rows(self, ours: str, theirs: str | Sequence[str], kind: str) -> list[Row]:
        """The rows of a layer: our path, and their path or the paths that ours joins."""
        theirs = (theirs,) if isinstance(theirs, str) else theirs
        return [
            Row(f"{ours}.{name}", tuple(self.path(t) + ending for t in theirs), turn)
            for name, ending, turn in self.kinds[kind]
        ]


TORCH = {
    "linear": [("kernel", ".weight", turns.TRANSPOSED), ("bias", ".bias", turns.SAME)],
    "negated": [("kernel", ".weight", turns.NEGATED_TRANSPOSED), ("bias", ".bias", turns.NEGATED)],
    "joined": [("kernel", ".weight", turns.JOINED_TRANSPOSED), ("bias", ".bias", turns.JOINED)],
    "patches": [("kernel", ".weight", turns.TORCH_PATCHES), ("bias", ".bias", turns.SAME)],
    "embedding": [("embeddings", ".weight", turns.SAME)],
    "norm": [("scale", ".scale", turns.SAME)],
}
FLAX = {
    "linear": [
        ("kernel", "/_flax_linear/kernel", turns.SAME),
        ("bias", "/_flax_linear/bias", turns.SAME),
    ],
    "patches": [("kernel", "/kernel", turns.FLAX_PATCHES), ("bias", "/bias", turns.SAME)],
    "embedding": [("embeddings", "/_flax_embedding/embedding", turns.SAME)],
}


def repeated(kind: str, count: int) -> list[tuple[str, str, turns.Turn]]:
    """A kind of torch layer that a file holds `count` times."""
    return [(name, ending, turns.copies(turn, count)) for name, ending, turn in TORCH[kind]]


def flax_patch(shape: tuple[int, ...]) -> tuple[int, int]:
    """(patch size, channels) of a flax kernel (p, p, channels, width)."""
    return shape[0], shape[2]
