"""The rows of a batch with r < t, apart from those with r = t, and put back in their places."""

import math

import keras
from keras import ops


def per_row(t, like):
    """`t` of shape (B,) as (B, 1, ..., 1), to multiply a batch of the rank of `like`."""
    return ops.reshape(t, (-1,) + (1,) * (len(like.shape) - 1))


_PARTS = 10_000  # shares are exact to a hundredth of a per cent


def count_r_below_t(rows, fraction_r_equals_t):
    """`K = round(B (1 - fraction))`, the number of rows with r < t among `rows`."""
    return (rows * round((1.0 - fraction_r_equals_t) * _PARTS) + _PARTS // 2) // _PARTS


def mask_of_share(below, count, share):
    """Of the `count` rows in the mask `below`, evenly as many as have r < t at `share` of r = t.

    `k = round(B (1 - share))` of the rows of the whole batch, `count` at most: a traced number,
    where `count` is static.
    """
    rows = ops.shape(below)[0]
    kept = ops.cast(rows, "float32") * (1.0 - share)
    kept = ops.minimum(ops.cast(ops.floor(kept + 0.5), "int32"), count)
    rank = ops.arange(rows, dtype="int32") * count // rows  # of a row among those in the mask
    count = ops.maximum(count, 1)
    return ops.logical_and(below, (rank + 1) * kept // count > rank * kept // count)


def indices_r_below_t(rows, count):
    """The `count` rows with r < t, evenly interleaved: row i with floor((i+1)K/B) > floor(iK/B)."""
    return ((ops.arange(count, dtype="int32") + 1) * rows - 1) // count


def mask_r_below_t(rows, count):
    """(B,) booleans of the same rows."""
    i = ops.arange(rows, dtype="int32")
    return ((i + 1) * count) // rows > (i * count) // rows


class Rows:
    """A batch of `rows`, of which `count` may have r < t, interleaved as `mask_r_below_t` says.

    Where both numbers are known, rows are taken out of equal blocks: in a batch that is laid over
    devices none then leaves its device.

    Args:
        rows: number of rows, an integer or a scalar tensor.
        count: number of those that may have r < t, likewise.

    Example:
        >>> rows = Rows(8, 2)
        >>> rows.join(rows.below(x), rows.equal(x))  # x again
    """

    def __init__(self, rows, count):
        self.total, self.count = rows, count
        self.mask = mask_r_below_t(rows, count)  # (rows,)
        static = isinstance(rows, int) and isinstance(count, int)
        self.all_below = static and rows == count
        self._blocks = math.gcd(rows, count) if static else 1
        # A batch of unknown size may have no row of a kind: one is taken, and `join` leaves it out.
        least = (lambda n: n) if static else (lambda n: ops.maximum(n, 1))
        rows, count = rows // self._blocks, count // self._blocks
        self._sizes = rows, least(count), least(rows - count)

    def below(self, tree):
        """The rows with r < t of every array in a structure; None stays None."""
        rows, below, _ = self._sizes
        return self._take(tree, indices_r_below_t(rows, below), rows)

    def equal(self, tree):
        """The rows with r = t, likewise."""
        rows, _, equal = self._sizes
        return self._take(tree, ops.arange(equal, dtype="int32") * rows // equal, rows)

    def replace(self, whole, below):
        """The batch `whole` with the rows `below` in the place of those with r < t."""
        rows, size, _ = self._sizes
        spread = self._take(below, self._before(rows, size), size)
        return ops.where(per_row(self.mask, whole), spread, whole)

    def join(self, below, equal):
        """The batch of these rows with r < t and with r = t."""
        rows, size, rest = self._sizes
        place = ops.arange(rows, dtype="int32") - self._before(rows, size)
        return self.replace(self._take(equal, ops.minimum(place, rest - 1), rest), below)

    def _before(self, rows, below):
        """Of each row of a block, the number of rows with r < t before it."""
        return ops.arange(rows, dtype="int32") * below // rows

    def _take(self, tree, indices, size):
        """The rows `indices` of each of the blocks, of `size` rows."""

        def take(a):
            if a is None or self._blocks == 1:
                return a if a is None else ops.take(a, indices, axis=0)
            shape = tuple(a.shape[1:])
            blocks = ops.reshape(a, (self._blocks, size, *shape))
            return ops.reshape(ops.take(blocks, indices, axis=1), (-1, *shape))

        return keras.tree.map_structure(take, tree)
