"""Writes weights as `.safetensors`, `.npz`, `.msgpack` and `.pt`, for the usual readers."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np

from keras_meanflow.files.atomic import write_atomically
from keras_meanflow.files.msgpack import pack
from keras_meanflow.files.safetensors import CHECKSUM, METADATA, NO_CHECKSUM, digest_of

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage"}
_SAFETENSORS = {"float32": "F32", "float16": "F16", "float64": "F64"}


def write_weights(
    path: str | os.PathLike,
    state: dict[str, np.ndarray],
    *,
    wrapping: tuple[str, ...] = (),
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes tensors completely or not at all; the ending of the path chooses the container.

    Args:
        path: `.safetensors`, `.npz`, `.msgpack`, `.pt` or `.pth`.
        state: float arrays by name.
        wrapping: for `.msgpack`, the names of the dicts around the tree, outermost first. There
            "/" in a tensor's name separates nested dicts.
        metadata: text for the header of a `.safetensors` file, beside its checksum.

    Raises:
        ValueError: For another ending.

    Example:
        >>> write_weights("a.safetensors", {"w": np.zeros((2, 3), "float32")})
    """
    path = Path(path)
    if path.suffix not in _WRITERS:
        raise ValueError(f"Weights are written as {', '.join(_WRITERS)}. Received: {path.name}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: np.asarray(array, order="C") for name, array in state.items()}

    def write(partial):
        with open(partial, "wb") as file:
            _WRITERS[path.suffix](file, state, wrapping, metadata or {})

    write_atomically(path, write)


def _safetensors(file, state, _wrapping, metadata):
    header, offset = {METADATA: {CHECKSUM: NO_CHECKSUM, **metadata}}, 0
    for name, array in state.items():
        entry = {"dtype": _SAFETENSORS[array.dtype.name], "shape": list(array.shape)}
        header[name] = {**entry, "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    start = struct.pack("<Q", len(text))
    checksum = digest_of(start, text, map(_little_endian, state.values()))
    file.write(start + text.replace(NO_CHECKSUM.encode(), checksum.encode(), 1))
    for array in state.values():
        file.write(_little_endian(array))


def _little_endian(array):
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _npz(file, state, _wrapping, _metadata):
    np.savez(file, **state)


def _msgpack(file, state, wrapping, _metadata):
    tree = {}
    for name, array in state.items():
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = array
    for name in reversed(wrapping):
        tree = {name: tree}
    file.write(pack(tree))


def _torch(file, state, _wrapping, _metadata):
    """The zip of `torch.save`: one pickle for all tensors, and one file of numbers for each.

    The pickle's instructions are written one by one, so torch is not needed. `pickles.py` reads
    the same instructions.
    """
    with zipfile.ZipFile(file, "w") as archive:
        add = _undated(archive)
        add("archive/data.pkl", _torch_pickle(state))
        add("archive/byteorder", "little")
        for i, array in enumerate(state.values()):
            add(f"archive/data/{i}", _little_endian(array))
        add("archive/version", "3\n")


def _undated(archive):
    """`writestr` without the time of day, so that the same weights give the same bytes."""
    return lambda name, data: archive.writestr(zipfile.ZipInfo(name), data)


def _torch_pickle(state):
    out = [b"\x80\x02}("]  # protocol 2, an empty dict, a mark
    for i, (name, array) in enumerate(state.items()):
        strides = np.array(array.strides, "int64") // array.itemsize
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        storage = _STORAGES[array.dtype.name]
        out += [_text("storage"), f"ctorch\n{storage}\n".encode(), _text(str(i)), _text("cpu")]
        out += [_integer(array.size), b"tQ", _integer(0)]  # the storage; an offset of 0
        out += [_tuple(array.shape), _tuple(strides.tolist())]
        out.append(b"\x89ccollections\nOrderedDict\n)RtR")  # needs no gradient, has no hooks
    return b"".join([*out, b"u."])


def _text(text):
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(number):
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    return b"\x8a\x08" + struct.pack("<q", number)


def _tuple(numbers):
    return b"(" + b"".join(map(_integer, numbers)) + b"t"


_WRITERS = {
    ".safetensors": _safetensors,
    ".npz": _npz,
    ".msgpack": _msgpack,
    ".pt": _torch,
    ".pth": _torch,
}
