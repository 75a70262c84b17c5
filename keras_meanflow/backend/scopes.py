"""Whether a call is made inside a forward-mode product, where some kernels have no rule."""

import contextlib
import threading

_STATE = threading.local()  # replicas of one model step in threads of their own


@contextlib.contextmanager
def differentiating():
    """Marks what is called within as part of a forward-mode product."""
    before = inside_jvp()
    _STATE.inside = True
    try:
        yield
    finally:
        _STATE.inside = before


def inside_jvp():
    """Whether the calling thread is within `differentiating()`."""
    return getattr(_STATE, "inside", False)
