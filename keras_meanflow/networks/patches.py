"""Images to tokens and back: a token is a square patch, its channels last."""

from keras import ops


def patch_grid(image_size, patch_size):
    """Height and width of an image size, an integer or a pair, and its rows and columns of patches.

    Raises:
        ValueError: for a patch size that does not divide them.
    """
    sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    if any(side % patch_size for side in sides):
        raise ValueError(f"patch_size must divide the image size. Received: {patch_size}, {sides}.")
    return sides, tuple(side // patch_size for side in sides)


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
