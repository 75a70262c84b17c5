"""How torch, flax and diffusers name the tensors of a layer, and lay them out."""

from collections.abc import Callable
from typing import NamedTuple

from keras_meanflow.formats import turns
from keras_meanflow.formats.turns import Row


class Dialect(NamedTuple):
    """Per kind of layer: (our weight's name, their ending, turn); and what becomes of a path."""

    kinds: dict
    path: Callable = lambda path: path
    patch: Callable = lambda shape: (shape[2], shape[1])  # (patch size, channels) of the kernel

    def rows(self, ours, theirs, kind):
        """The rows of a layer: our path, their path or the paths that one of ours joins."""
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


def repeated(kind, count):
    """A kind of torch layer that a file holds `count` times."""
    return [(name, ending, turns.copies(turn, count)) for name, ending, turn in TORCH[kind]]


def flax_patch(shape):
    """(patch size, channels) of a flax kernel (p, p, channels, width)."""
    return shape[0], shape[2]
