"""Keras' own train step computes the gradients and keeps them to itself; this lets us see them."""

import contextlib
import threading

_SEEN = threading.local()  # replicas of one model step in threads of their own


@contextlib.contextmanager
def recorded_gradients(optimizer, method, position):
    """The list that `optimizer.method` receives at `position`, filled when it is called."""
    if method not in vars(optimizer):
        _listen(optimizer, method, position)
    _SEEN.gradients = []
    try:
        yield _SEEN.gradients
    finally:
        del _SEEN.gradients


def _listen(optimizer, method, position):
    original = getattr(optimizer, method)

    def record(*args):
        args = [list(arg) if i == position else arg for i, arg in enumerate(args)]
        if hasattr(_SEEN, "gradients"):
            _SEEN.gradients.extend(args[position])
        return original(*args)

    object.__setattr__(optimizer, method, record)
