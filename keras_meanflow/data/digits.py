"""The digits inside the package: `digits.LICENSE.txt` names their source and licence."""

from importlib import resources

import numpy as np

LEVELS = 16  # a pixel counts the ink pixels of a 4 x 4 block
SPLITS = {"all": slice(None), "train": slice(0, None, 2), "test": slice(1, None, 2)}


def load_digits(split: str = "all") -> tuple[np.ndarray, np.ndarray]:
    """Returns the 1,797 handwritten digits of UCI's test set, or a half of them, and their labels.

    Args:
        split: "all", "train" (every other digit from the first, 899) or "test" (the others, 898).

    Returns:
        `x`, float32 of shape `(1797, 8, 8, 1)` in [-1, 1] (-1 paper, 1 ink), and `y`, int32 of
        shape `(1797,)` in 0..9.

    Raises:
        ValueError: for another split.

    Example:

    >>> x, y = load_digits()
    >>> x.shape, int(y[0])
    ((1797, 8, 8, 1), 0)

    References:
        E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, CC BY 4.0.
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}. Received: {split!r}.")
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file:
        stored = np.load(file)
        x, y = stored["x"][SPLITS[split]], stored["y"][SPLITS[split]]
    return (x[..., None] / (LEVELS / 2) - 1).astype("float32"), y.astype("int32")
