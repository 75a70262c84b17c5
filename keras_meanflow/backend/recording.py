"""Keras' own train step computes the gradients and keeps them to itself; this lets us see them."""

import contextlib


@contextlib.contextmanager
def recorded_gradients(optimizer, method, position):
    """The list that `optimizer.method` receives at `position`, filled when it is called."""
    seen = []
    original = getattr(optimizer, method)

    def record(*args):
        args = [list(arg) if i == position else arg for i, arg in enumerate(args)]
        seen.extend(args[position])
        return original(*args)

    object.__setattr__(optimizer, method, record)
    try:
        yield seen
    finally:
        object.__delattr__(optimizer, method)
