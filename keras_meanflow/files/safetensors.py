"""Reads `.safetensors` files, and checks the checksum that this package writes into them.

The format has none. Ours is in the metadata: the SHA-256 of the whole file, with 64 zeros in the
place of the checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable

import numpy as np

from keras_meanflow.files.numbers import decode, truncated, width
from keras_meanflow.files.reading import reading

CHECKSUM, NO_CHECKSUM = "keras_meanflow_sha256", "0" * 64
METADATA = "__metadata__"
LONGEST_HEADER = 100_000_000  # bytes, as in the reader of the format's authors
SAFETENSORS = {
    "F64": "f8",
    "F32": "f4",
    "F16": "f2",
    "BF16": "bf16",
    "I64": "i8",
    "I32": "i4",
    "I16": "i2",
    "I8": "i1",
    "U64": "u8",
    "U32": "u4",
    "U16": "u2",
    "U8": "u1",
    "BOOL": "?",
}


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text in a `.safetensors` file's header, by name; empty for any other file.

    Args:
        path: The file.

    Raises:
        ValueError: When the header is damaged.

    Example:
        >>> read_metadata("model.safetensors")
        {'format': 'pt'}
    """
    if os.path.isdir(path):
        return {}
    with reading(path), open(path, "rb") as file:
        start = file.read(9)
        if start[8:] != b"{" or _size(start) > os.path.getsize(path) - 8:
            return {}
        return _parsed(start[8:] + file.read(_size(start) - 1)).get(METADATA, {})


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file by name; bfloat16 becomes float32, which is exact.

    Args:
        path: The file.

    Raises:
        ValueError: When the file is truncated or damaged: an entry does not fit the file, the
            entries do not fill it, or its checksum is another one.

    Example:
        >>> state = read_safetensors("model.safetensors")
    """
    with reading(path), open(path, "rb") as file:
        start = file.read(8)
        if _size(start) > os.path.getsize(path) - 8:
            raise truncated(path, f"its header says {_size(start)} bytes")
        text, data = file.read(_size(start)), file.read()
        header = _parsed(text)
        _check_sum(path, header.pop(METADATA, {}), start, text, data)
        state = {name: _tensor(path, name, entry, data) for name, entry in header.items()}
        _check_filled(path, header, len(data))
        return state


def digest_of(start: bytes, text: bytes, data: Iterable[bytes]) -> str:
    """The checksum of a file of these parts, whose header holds `NO_CHECKSUM`."""
    digest = hashlib.sha256(start + text)
    for part in data:
        digest.update(part)
    return digest.hexdigest()


def _size(start):
    """The length of the header, from the first eight bytes."""
    return int.from_bytes(start[:8], "little")


def _parsed(text):
    if len(text) > LONGEST_HEADER:
        raise ValueError(f"A header has up to {LONGEST_HEADER:,} bytes. Received {len(text):,}.")
    header = json.loads(text)
    metadata = header.get(METADATA, {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("Its header must be an object of tensors, with texts as metadata.")
    return header


def _check_sum(path, metadata, start, text, data):
    expected = metadata.get(CHECKSUM)
    if expected is None:
        return
    blank = text.replace(expected.encode(), NO_CHECKSUM.encode(), 1)
    found = digest_of(start, blank, [data])
    if found != expected:
        raise ValueError(
            f"{path} is damaged: its SHA-256 should be {expected}. Received {found}. "
            "Fetch or write it again."
        )


def _tensor(path, name, entry, data):
    if entry["dtype"] not in SAFETENSORS:
        known = sorted(SAFETENSORS)
        raise ValueError(f"{path}: {name!r} has dtype {entry['dtype']}. Known are {known}.")
    code, (start, stop) = SAFETENSORS[entry["dtype"]], entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (start, stop, *entry["shape"])):
        raise ValueError(f"{path}: the shape and the offsets of {name!r} must be numbers from 0.")
    expected = math.prod(entry["shape"]) * width(code)
    if not start <= stop <= len(data) or stop - start != expected:
        raise truncated(path, f"{name!r} needs bytes {start} to {stop} of {len(data)}")
    return decode(data[start:stop], code, "little").reshape(entry["shape"])


def _check_filled(path, header, size):
    """Raise unless the tensors lie one after the other, up to the end of the file."""
    end = 0
    for start, stop in sorted(entry["data_offsets"] for entry in header.values()):
        if start != end:
            raise truncated(path, f"its tensors leave out or share the bytes from {end}")
        end = stop
    if end != size:
        raise truncated(path, f"its tensors have {end} bytes, the file has {size}")
