"""Feature networks compute in float32, even if the user's policy is mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def float32_policy() -> Iterator[None]:
    """Layers made inside are float32; the user's policy is restored afterwards."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
