"""Records the gradients of Keras' train step, which does not return them."""

import contextlib
import threading
from collections.abc import Callable, Iterator

import keras

_SEEN = threading.local()  # each replica of a model steps in a separate thread


@contextlib.contextmanager
def recorded_gradients(
    optimizer: keras.optimizers.Optimizer,
    method: str,
    position: int,
    change: Callable[[list], list] = list,
) -> Iterator[list]:
    """The list that `optimizer.method` receives at `position`, filled when it is called.

    `change` makes this list from the one that Keras gives.
    """
    if method not in vars(optimizer):
        _listen(optimizer, method, position, change)
    _SEEN.gradients = []
    try:
        yield _SEEN.gradients
    finally:
        del _SEEN.gradients


def _listen(optimizer, method, position, change):
    original = getattr(optimizer, method)

    def record(*args):
        args = [change(arg) if i == position else arg for i, arg in enumerate(args)]
        if hasattr(_SEEN, "gradients"):
            _SEEN.gradients.extend(args[position])
        return original(*args)

    object.__setattr__(optimizer, method, record)
