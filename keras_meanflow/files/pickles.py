"""Interprets the pickle in a torch file one instruction at a time, and imports nothing.

The result is numbers, strings, containers and descriptions of tensors. A pickle that asks for
anything else is refused, and the error names it. The instruction `GLOBAL` does not import: it looks
the name up in `ALLOWED`.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bf16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


class StoredTensor(NamedTuple):
    """A strided view of storage `key`, which holds `size` numbers of type `code`."""

    code: str
    key: str
    size: int
    offset: int
    shape: tuple
    stride: tuple

    def view(self, storage: np.ndarray) -> np.ndarray:
        """The tensor as a new array.

        Raises:
            ValueError: for a view that reaches outside its storage.
        """
        numbers = (self.offset, *self.shape, *self.stride)
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((length - 1) * step for length, step in steps)
        if min(numbers) < 0 or (0 not in self.shape and last >= len(storage)):
            raise ValueError(
                f"A tensor must be inside its storage. Storage {self.key} has {len(storage)} "
                f"numbers; offset {self.offset}, shape {self.shape}, stride {self.stride}."
            )
        if 0 in self.shape:
            return np.zeros(self.shape, storage.dtype)
        strides = [step * storage.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(storage[self.offset :], self.shape, strides).copy()


class _Namespace(dict):
    """The attributes of an `argparse.Namespace`, which training scripts store, as a dict."""


def _storage(kind, code, key, _location, size, *_view):
    if kind != "storage":
        raise ValueError(f"A persistent id must be a storage. Received {kind!r}.")
    return code, str(key), size


def _tensor(storage, offset, shape, stride, *_unused):
    return StoredTensor(*storage, offset, tuple(shape), tuple(stride))


ALLOWED = {
    "collections.OrderedDict": lambda items=(): dict(items),
    "argparse.Namespace": _Namespace,
    "torch.Size": tuple,
    "torch.device": lambda *names: ":".join(map(str, names)),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_unused: tensor,
    **{f"torch.{name}": code for name, code in STORAGES.items()},
    **{f"torch.{name}": name for name in DTYPES},
}


def interpret(stream: BinaryIO) -> object:
    """Interprets one pickle up to its end; tensors become `StoredTensor`.

    Args:
        stream: A binary file at the first byte of the pickle. Afterwards it is behind the last one.

    Raises:
        ValueError: When the pickle ends early, or asks for a name that is not in `ALLOWED`.

    Example:
        >>> interpret(io.BytesIO(pickle.dumps({"a": [1, 2.5]}, protocol=2)))
        {'a': [1, 2.5]}
    """
    try:
        return _followed(stream)
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The pickle is malformed: {error!r}.") from error


def _followed(stream):
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "STOP":
            break
        step = getattr(machine, f"on_{opcode.name.lower()}", None)
        if step is None:
            raise ValueError(
                f"The pickle instruction {opcode.name} is refused: tensors do not need it."
            )
        step(argument)
    return machine.stack.pop()


class _Machine:
    """The stack and the memo of a pickle, with one method for each allowed instruction."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def push(self, value):
        self.stack.append(value)

    on_binint = on_binint1 = on_binint2 = on_long1 = on_long4 = on_int = on_long = push
    on_binfloat = on_float = on_unicode = push
    on_binunicode = on_short_binunicode = on_binunicode8 = push
    on_string = on_binstring = on_short_binstring = push
    on_binbytes = on_short_binbytes = push

    def skip(self, _):
        """Protocol number and frame length: nothing to do."""

    on_proto = on_frame = skip

    def on_none(self, _):
        self.push(None)

    def on_newtrue(self, _):
        self.push(True)

    def on_newfalse(self, _):
        self.push(False)

    def on_empty_dict(self, _):
        self.push({})

    def on_empty_list(self, _):
        self.push([])

    def on_empty_tuple(self, _):
        self.push(())

    def on_mark(self, _):
        self.marks.append(len(self.stack))

    def on_pop(self, _):
        self.stack.pop()

    def since_mark(self):
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def on_tuple(self, _):
        self.push(tuple(self.since_mark()))

    def take(self, count):
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def on_tuple1(self, _):
        self.push(tuple(self.take(1)))

    def on_tuple2(self, _):
        self.push(tuple(self.take(2)))

    def on_tuple3(self, _):
        self.push(tuple(self.take(3)))

    def on_append(self, _):
        item = self.stack.pop()
        self.stack[-1].append(item)

    def on_appends(self, _):
        items = self.since_mark()
        self.stack[-1].extend(items)

    def on_setitem(self, _):
        key, value = self.take(2)
        self.stack[-1][key] = value

    def on_setitems(self, _):
        items = self.since_mark()
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def on_put(self, index):
        self.memo[index] = self.stack[-1]

    on_binput = on_long_binput = on_put

    def on_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def on_get(self, index):
        self.push(self.memo[index])

    on_binget = on_long_binget = on_get

    def on_global(self, name):
        self.push(_allowed(name.replace(" ", ".")))

    def on_stack_global(self, _):
        self.push(_allowed(".".join(self.take(2))))

    def on_binpersid(self, _):
        self.push(_storage(*self.stack.pop()))

    def on_reduce(self, _):
        function, arguments = self.take(2)
        if not isinstance(function, Callable):
            raise ValueError(f"The pickle calls {function!r}, which is not a function.")
        self.push(function(*arguments))

    on_newobj = on_reduce

    def on_build(self, _):
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Namespace):
            self.stack[-1].update(state)


def _allowed(name):
    if name not in ALLOWED:
        raise ValueError(
            f"The pickle asks for {name}. Tensors do not need it, and it could run code. "
            "Save only the state dict, or convert the file on a machine where you trust it."
        )
    return ALLOWED[name]
