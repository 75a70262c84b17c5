"""Split a batch into rows with r < t and rows with r = t, and join them again in order."""

import math
from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor


def per_row(t: Tensor, like: Tensor) -> Tensor:
    """`t` of shape (B,) as (B, 1, ..., 1), to multiply a batch of the rank of `like`."""
    return ops.reshape(t, (-1,) + (1,) * (len(like.shape) - 1))


_PARTS = 10_000  # shares are exact to a hundredth of a per cent


def count_r_below_t(rows: int, fraction_r_equals_t: float) -> int:
    """`K = round(B (1 - fraction))`, the number of rows with r < t among `rows`."""
    return (rows * round((1.0 - fraction_r_equals_t) * _PARTS) + _PARTS // 2) // _PARTS


def mask_of_share(below: Tensor, count: int, share: Tensor | float) -> Tensor:
    """The mask `below` of `count` rows, thinned evenly to k rows, for a share of rows with r = t.

    `k = round(B (1 - share))` for a batch of B rows, at most `count`. k is a traced number, while
    `count` is static.
    """
    rows = ops.shape(below)[0]
    kept = ops.cast(rows, "float32") * (1.0 - share)
    kept = ops.minimum(ops.cast(ops.floor(kept + 0.5), "int32"), count)
    rank = ops.arange(rows, dtype="int32") * count // rows  # of a row among the rows in the mask
    count = ops.maximum(count, 1)
    return ops.logical_and(below, (rank + 1) * kept // count > rank * kept // count)


def indices_r_below_t(rows: int | Tensor, count: int | Tensor) -> Tensor:
    """The `count` rows with r < t, evenly interleaved: row i with floor((i+1)K/B) > floor(iK/B)."""
    return ((ops.arange(count, dtype="int32") + 1) * rows - 1) // count


def mask_r_below_t(rows: int | Tensor, count: int | Tensor) -> Tensor:
    """(B,) booleans, True on the rows of `indices_r_below_t`."""
    i = ops.arange(rows, dtype="int32")
    return ((i + 1) * count) // rows > (i * count) // rows


class Rows:
    """A batch of `rows`, of which `count` may have r < t, interleaved as `mask_r_below_t` says.

    Where both numbers are known, rows are taken from equal blocks. So no row leaves its device in a
    batch that is sharded over devices.

    Args:
        rows: number of rows, an integer or a scalar tensor.
        count: number of rows that may have r < t, an integer or a scalar tensor.

    Example:
        >>> rows = Rows(8, 2)
        >>> rows.join(rows.below(x), rows.equal(x))  # x again
    """

    def __init__(self, rows: int | Tensor, count: int | Tensor):
        self.total, self.count = rows, count
        self.mask = mask_r_below_t(rows, count)  # (rows,)
        static = isinstance(rows, int) and isinstance(count, int)
        self.all_below = static and rows == count
        self._blocks = math.gcd(rows, count) if static else 1
        # A batch of unknown size may lack one kind of row: one is taken, and `join` leaves it out.
        least = (lambda n: n) if static else (lambda n: ops.maximum(n, 1))
        rows, count = rows // self._blocks, count // self._blocks
        self._sizes = rows, least(count), least(rows - count)

    def below(self, tree: Any) -> Any:
        """The rows with r < t of every array in a structure; None stays None."""
        rows, below, _ = self._sizes
        return self._take(tree, indices_r_below_t(rows, below), rows)

    def equal(self, tree: Any) -> Any:
        """The rows with r = t of every array in a structure; None stays None."""
        rows, _, equal = self._sizes
        return self._take(tree, ops.arange(equal, dtype="int32") * rows // equal, rows)

    def replace(self, whole: Tensor, below: Tensor) -> Tensor:
        """The batch `whole`, its rows with r < t replaced by `below`."""
        rows, size, _ = self._sizes
        spread = self._take(below, self._before(rows, size), size)
        return ops.where(per_row(self.mask, whole), spread, whole)

    def join(self, below: Tensor, equal: Tensor) -> Tensor:
        """The batch made of `below`, its rows with r < t, and `equal`, its rows with r = t."""
        rows, size, rest = self._sizes
        place = ops.arange(rows, dtype="int32") - self._before(rows, size)
        return self.replace(self._take(equal, ops.minimum(place, rest - 1), rest), below)

    def _before(self, rows, below):
        """For each row of a block, the number of rows with r < t before it."""
        return ops.arange(rows, dtype="int32") * below // rows

    def _take(self, tree, indices, size):
        """The rows `indices` of each block of `size` rows."""

        def take(a):
            if a is None or self._blocks == 1:
                return a if a is None else ops.take(a, indices, axis=0)
            shape = tuple(a.shape[1:])
            blocks = ops.reshape(a, (self._blocks, size, *shape))
            return ops.reshape(ops.take(blocks, indices, axis=1), (-1, *shape))

        return keras.tree.map_structure(take, tree)
