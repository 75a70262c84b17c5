"""Reads and writes flax's msgpack files without flax: maps, strings, numbers, arrays."""

from __future__ import annotations

import struct

import numpy as np

_NDARRAY, _SCALAR = 1, 3  # flax's extension types; 2 is a complex number
_FIXED = {  # first byte: (struct code of the number that follows, what it is or counts)
    0xCA: (">f", "value"),
    0xCB: (">d", "value"),
    0xCC: (">B", "value"),
    0xCD: (">H", "value"),
    0xCE: (">I", "value"),
    0xCF: (">Q", "value"),
    0xD0: (">b", "value"),
    0xD1: (">h", "value"),
    0xD2: (">i", "value"),
    0xD3: (">q", "value"),
    0xC4: (">B", "bytes"),
    0xC5: (">H", "bytes"),
    0xC6: (">I", "bytes"),
    0xD9: (">B", "text"),
    0xDA: (">H", "text"),
    0xDB: (">I", "text"),
    0xDC: (">H", "list"),
    0xDD: (">I", "list"),
    0xDE: (">H", "map"),
    0xDF: (">I", "map"),
    0xC7: (">B", "extension"),
    0xC8: (">H", "extension"),
    0xC9: (">I", "extension"),
}
_RANGES = ((0x80, 0x8F, "map"), (0x90, 0x9F, "list"), (0xA0, 0xBF, "text"))


def unpack(data: bytes) -> object:
    """The nested dicts with arrays that flax's `to_bytes` packed.

    Raises:
        ValueError: When the bytes end early or continue after the end, or hold a type that weights
            do not need.

    Example:
        >>> unpack(pack({"a": {"kernel": np.zeros((2, 3), "float32")}}))["a"]["kernel"].shape
        (2, 3)
    """
    reader = _Reader(data)
    try:
        value = reader.value()
    except (struct.error, TypeError, RecursionError) as error:
        raise ValueError(f"it ends early or is no msgpack: {error}") from error
    if reader.at != len(data):
        raise ValueError(f"it goes on for {len(data) - reader.at} bytes after its end")
    return value


class _Reader:
    """A position in the bytes, and methods that read from there."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise ValueError(
                f"it ends early: {self.at + count} bytes needed, {len(self.data)} there"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code):
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def value(self):
        first = self.take(1)[0]
        if first <= 0x7F or first >= 0xE0:
            return first if first <= 0x7F else first - 256
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if 0xD4 <= first <= 0xD8:
            return self.extension(1 << (first - 0xD4))
        for low, high, kind in _RANGES:
            if low <= first <= high:
                return getattr(self, kind)(first - low)
        if first not in _FIXED:
            raise ValueError(f"byte {first:#x} starts a type that weights do not need")
        code, kind = _FIXED[first]
        number = self.number(code)
        return number if kind == "value" else getattr(self, kind)(number)

    def bytes(self, count):
        return self.take(count)

    def text(self, count):
        return self.take(count).decode()

    def list(self, count):
        return [self.value() for _ in range(count)]

    def map(self, count):
        return {self.value(): self.value() for _ in range(count)}

    def extension(self, count):
        kind = self.number(">b")
        data = self.take(count)
        if kind not in (_NDARRAY, _SCALAR):
            raise ValueError(f"extension {kind} is no array")
        shape, dtype, numbers = unpack(data)
        if dtype == "bfloat16":  # the upper half of a float32
            array = (np.frombuffer(numbers, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            array = np.frombuffer(numbers, _dtype(dtype))
        return array.reshape(shape).copy()


def _dtype(name):
    dtype = np.dtype(name)
    if dtype.kind not in "biuf":
        raise ValueError(f"arrays of {name!r} are no numbers")
    return dtype


def pack(value: object) -> bytes:
    """The bytes that flax's `to_bytes` makes from nested dicts with arrays.

    Args:
        value: dicts with text keys, arrays, text, bytes, integers, and tuples or lists of them.

    Example:
        >>> pack({"a": 1}).hex()
        '81a16101'
    """
    if isinstance(value, dict):
        parts = [_header(len(value), ((0x80, 16), (0xDE, ">H"), (0xDF, ">I")))]
        parts += [pack(part) for item in value.items() for part in item]
        return b"".join(parts)
    if isinstance(value, list | tuple):
        header = _header(len(value), ((0x90, 16), (0xDC, ">H"), (0xDD, ">I")))
        return header + b"".join(map(pack, value))
    if isinstance(value, str):
        data = value.encode()
        return _header(len(data), ((0xA0, 32), (0xD9, ">B"), (0xDA, ">H"), (0xDB, ">I"))) + data
    if isinstance(value, bytes):
        return _header(len(value), ((0xC4, ">B"), (0xC5, ">H"), (0xC6, ">I"))) + value
    if isinstance(value, np.ndarray):
        return _extension(pack((value.shape, value.dtype.name, value.tobytes())))
    return _header(int(value), ((0, 128), (0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q")))


def _header(number, choices):
    """The shortest encoding of a length or of a number from 0."""
    for first, code in choices:
        if isinstance(code, int):
            if number < code:
                return bytes([first + number])
        elif number < 256 ** struct.calcsize(code):
            return bytes([first]) + struct.pack(code, number)
    raise ValueError(f"{number} is too large for msgpack.")


def _extension(data):
    size = len(data)
    if size in (1, 2, 4, 8, 16):
        return bytes([0xD4 + size.bit_length() - 1, _NDARRAY]) + data
    return _header(size, ((0xC7, ">B"), (0xC8, ">H"), (0xC9, ">I"))) + bytes([_NDARRAY]) + data
