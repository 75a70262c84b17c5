"""Whether a call is inside a forward-mode derivative, where some kernels have no rule."""

import contextlib
import threading
from collections.abc import Iterator

_STATE = threading.local()  # each replica of a model steps in a separate thread


@contextlib.contextmanager
def differentiating() -> Iterator[None]:
    """Context that marks the calls inside it as part of a forward-mode derivative."""
    before = inside_jvp()
    _STATE.inside = True
    try:
        yield
    finally:
        _STATE.inside = before


def inside_jvp() -> bool:
    """Whether the calling thread is inside `differentiating()`."""
    return getattr(_STATE, "inside", False)
