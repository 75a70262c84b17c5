"""The digits that ship inside the package: `digits.LICENSE.txt` has their source and licence."""

from importlib import resources

import numpy as np

LEVELS = 16  # a pixel counts the set bits of a 4 x 4 block


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns the 1,797 handwritten digits of UCI's test set, and their labels.

    Returns:
        `x`, float32 of shape `(1797, 8, 8, 1)` in [-1, 1] (-1 paper, 1 ink), and `y`, int32 of
        shape `(1797,)` in 0..9.

    Example:

    >>> x, y = load_digits()
    >>> x.shape, int(y[0])
    ((1797, 8, 8, 1), 0)

    References:
        E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, CC BY 4.0.
    """
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file:
        stored = np.load(file)
        x, y = stored["x"], stored["y"]
    return (x[..., None] / (LEVELS / 2) - 1).astype("float32"), y.astype("int32")
