"""Images to tokens and back: a token is a square patch, its channels last."""

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.ranges import check_sizes


def patch_grid(
    image_size: int | tuple[int, int], patch_size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of an image, and its (rows, columns) of patches.

    Raises:
        ValueError: for sizes below 1, or a patch size that does not divide height and width.
    """
    check_sizes(image_size=image_size, patch_size=patch_size)
    sides = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
    if any(side % patch_size for side in sides):
        raise ValueError(f"patch_size must divide the image size. Received: {patch_size}, {sides}.")
    height, width = sides
    return (height, width), (height // patch_size, width // patch_size)


def patchify(z: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """(B, rows * p, columns * p, C) to (B, rows * columns, p * p * C)."""
    (rows, columns), p, c = grid, patch_size, z.shape[-1]
    z = ops.reshape(z, (-1, rows, p, columns, p, c))
    return ops.reshape(ops.transpose(z, (0, 1, 3, 2, 4, 5)), (-1, rows * columns, p * p * c))


def unpatchify(x: Tensor, grid: tuple[int, int], patch_size: int, unused: int = 0) -> Tensor:
    """(B, rows * columns, p * p * (C + unused)) to (B, rows * p, columns * p, C)."""
    (rows, columns), p = grid, patch_size
    c = x.shape[-1] // p**2 - unused
    x = ops.reshape(x, (-1, rows, columns, p, p, c + unused))[..., :c]
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, rows * p, columns * p, c))
