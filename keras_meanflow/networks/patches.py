"""Images to tokens and back: a token is a square patch, its channels last."""

from keras import ops


def patchify(z, grid, patch_size):
    """(B, rows * p, columns * p, C) to (B, rows * columns, p * p * C)."""
    (rows, columns), p, c = grid, patch_size, z.shape[-1]
    z = ops.reshape(z, (-1, rows, p, columns, p, c))
    return ops.reshape(ops.transpose(z, (0, 1, 3, 2, 4, 5)), (-1, rows * columns, p * p * c))


def unpatchify(x, grid, patch_size, unused=0):
    """(B, rows * columns, p * p * (C + unused)) to (B, rows * p, columns * p, C)."""
    (rows, columns), p = grid, patch_size
    c = x.shape[-1] // p**2 - unused
    x = ops.reshape(x, (-1, rows, columns, p, p, c + unused))[..., :c]
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * p, columns * p, c))
