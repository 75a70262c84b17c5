"""Numbers from bytes, for all containers."""

from __future__ import annotations

import os

import numpy as np


def width(code: str) -> int:
    """The bytes of one number: of a NumPy type, or of "bf16"."""
    return 2 if code == "bf16" else np.dtype(code).itemsize


def decode(data: bytes, code: str, order: str) -> np.ndarray:
    """Numbers from bytes; bfloat16, the upper half of a float32, becomes float32.

    Args:
        data: the bytes.
        code: a NumPy type such as "f4", or "bf16".
        order: "little" or "big".
    """
    mark = "<" if order == "little" else ">"
    if code == "bf16":
        upper = np.frombuffer(data, f"{mark}u2").astype(np.uint32)
        return (upper << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(code).newbyteorder(mark)).astype(code, copy=False)


def check_finite(state: dict[str, np.ndarray]) -> None:
    """Raise a ValueError that names the first tensor with NaN or infinity."""
    wrong = [n for n, array in state.items() if not np.isfinite(np.asarray(array)).all()]
    if wrong:
        raise ValueError(
            f"Weights must be finite. {len(wrong)} tensors hold NaN or infinity, the first is "
            f"{wrong[0]}."
        )


def truncated(path: str | os.PathLike, why: object) -> ValueError:
    """The error for a file that ends early."""
    return ValueError(f"{path} is truncated or damaged: {why}. Fetch it again.")
