"""Reads published weights into NumPy: without torch or flax, and without running a pickle.

A torch file holds a pickle, a program that may import and call anything. Here an interpreter
handles its instructions one by one. It supports numbers, strings, containers and tensors, and
imports nothing. A file that asks for anything else is refused.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from collections.abc import Callable

import numpy as np

from keras_meanflow.files.msgpack import unpack
from keras_meanflow.files.pickles import StoredTensor, interpret

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch files before torch 1.6
_MSGPACK_MAPS = [bytes([first]) for first in (*range(0x81, 0x90), 0xDE, 0xDF)]
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


def read_weights(path: str | os.PathLike) -> object:
    """The contents of a weights file; its first bytes decide the format, not its name.

    Args:
        path: A `.pt`, `.pth`, `.bin`, `.safetensors`, `.npz` or flax `.msgpack` file, or the folder
            of an orbax checkpoint.

    Raises:
        ValueError: When the file cannot be read, as the reader of its format says.
        ImportError: For an orbax checkpoint, when orbax is not installed.

    Example:
        >>> state = read_weights("lenet_mnist_fid.pth")
        >>> state["conv1.weight"].shape
        (6, 1, 5, 5)
    """
    if os.path.isdir(path):
        return read_orbax(path)
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":
        return read_safetensors(path)
    if start[:2] == b"PK" and _is_npz(path):
        return read_npz(path)
    return read_flax(path) if start[:1] in _MSGPACK_MAPS else read_torch(path)


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name; a file with a pickle is refused.

    Args:
        path: The file.

    Raises:
        ValueError: When the file is truncated or holds objects.

    Example:
        >>> state = read_npz("model.npz")
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read. {error}") from error


def read_flax(path: str | os.PathLike) -> object:
    """The nested dicts of arrays of a flax `.msgpack` file; bfloat16 becomes float32.

    Args:
        path: The file.

    Raises:
        ValueError: When the file is truncated, or holds more than arrays, text and numbers.

    Example:
        >>> tree = read_flax("checkpoint_0")
    """
    with open(path, "rb") as file:
        data = file.read()
    try:
        return unpack(data)
    except ValueError as error:
        raise _truncated(path, error) from error


def read_orbax(path: str | os.PathLike) -> object:
    """The nested dicts of arrays of an orbax checkpoint, a folder. orbax, and so JAX, is needed.

    Args:
        path: The folder that orbax wrote, or a folder that contains only this one.

    Raises:
        ValueError: When the folder is no orbax checkpoint.
        ImportError: When orbax is not installed; the message says how to install it.

    Example:
        >>> tree = read_orbax("MF-B-4/checkpoint_500400")
    """
    found = [entry for entry in sorted(os.listdir(path)) if not entry.startswith(".")]
    if len(found) == 1 and os.path.isdir(os.path.join(path, found[0])):
        return read_orbax(os.path.join(path, found[0]))
    if not {"_METADATA", "_CHECKPOINT_METADATA", "checkpoint"} & set(found):
        raise ValueError(f"{path} is a folder, but not of orbax: it holds {found[:5]}.")
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise ImportError(
            f"{path} is an orbax checkpoint. Install its reader: pip install orbax-checkpoint"
        ) from error
    reader, path = orbax.checkpoint.PyTreeCheckpointer(), os.path.abspath(path)
    # As NumPy arrays: JAX arrays would need the devices that wrote them.
    as_numpy = orbax.checkpoint.RestoreArgs(restore_type=np.ndarray)
    tree = getattr(reader.metadata(path), "item_metadata", None)
    arguments = _like(getattr(tree, "tree", tree), as_numpy)
    return reader.restore(path, restore_args=arguments)


def _like(tree, leaf):
    """The tree with every leaf replaced."""
    if isinstance(tree, dict):
        return {name: _like(child, leaf) for name, child in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_like(child, leaf) for child in tree)
    return leaf


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The text in a `.safetensors` file's header, by name; empty for any other file.

    Args:
        path: The file.

    Example:
        >>> read_metadata("model.safetensors")
        {'format': 'pt'}
    """
    if os.path.isdir(path):
        return {}
    with open(path, "rb") as file:
        start = file.read(9)
        size = int.from_bytes(start[:8], "little")
        if start[8:] != b"{" or size > os.path.getsize(path) - 8:
            return {}
        return json.loads(start[8:] + file.read(size - 1)).get("__metadata__", {})


def _is_npz(path):
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            return False
        with zipfile.ZipFile(file) as archive:
            return bool(archive.namelist()) and all(n.endswith(".npy") for n in archive.namelist())


def read_torch(path: str | os.PathLike) -> object:
    """What `torch.save` wrote: dicts, lists, numbers, and tensors as arrays.

    Reads the zip format (torch >= 1.6) and the older one. bfloat16 becomes float32, which is exact.
    An `argparse.Namespace`, which training scripts store, becomes a dict.

    Args:
        path: A `.pt`, `.pth` or `.bin` file.

    Raises:
        ValueError: When the file is truncated or is not a torch file, or when its pickle asks for
            more than containers and tensors. The message names what it asks for.

    Example:
        >>> read_torch("checkpoint.pt")["ema"]["final_layer.linear.bias"].dtype
        dtype('float32')
    """
    with open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            return _read_zip(file, path)
        file.seek(0)
        return _read_legacy(file, path)


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors` file by name; bfloat16 becomes float32, which is exact.

    Args:
        path: The file.

    Raises:
        ValueError: When the file is truncated or an entry does not fit the file.

    Example:
        >>> state = read_safetensors("model.safetensors")
    """
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > os.path.getsize(path) - 8:
            raise _truncated(path, f"its header says {size} bytes")
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: _safetensor(path, name, entry, data) for name, entry in header.items()}


def _safetensor(path, name, entry, data):
    if entry["dtype"] not in SAFETENSORS:
        known = sorted(SAFETENSORS)
        raise ValueError(f"{path}: {name!r} has dtype {entry['dtype']}. Known are {known}.")
    code, (start, stop) = SAFETENSORS[entry["dtype"]], entry["data_offsets"]
    expected = math.prod(entry["shape"]) * _width(code)
    if not 0 <= start <= stop <= len(data) or stop - start != expected:
        raise _truncated(path, f"{name!r} needs bytes {start} to {stop} of {len(data)}")
    return _decode(data[start:stop], code, "little").reshape(entry["shape"])


# ------------------------------------------------------------------------- the two torch formats


def _read_zip(file, path):
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if not pickles:
            raise ValueError(f"{path} is a zip, but not from torch.save: it has no data.pkl.")
        root = pickles[0].removesuffix("data.pkl")
        order = "little"
        if f"{root}byteorder" in names:
            order = archive.read(f"{root}byteorder").decode()

        tree = _interpreted(io.BytesIO(_member(archive, pickles[0], path)), path)

        def storage(code, key):
            return _decode(_member(archive, f"{root}data/{key}", path), code, order)

        return _resolved(tree, storage)


def _member(archive, name, path):
    try:
        return archive.read(name)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise _truncated(path, f"{name}: {error}") from error


def _read_legacy(file, path):
    if file.read(1) != b"\x80":
        raise ValueError(f"{path} is truncated, or is not a torch file: no zip, no pickle.")
    file.seek(0)
    if _interpreted(file, path) != LEGACY_MAGIC:
        raise ValueError(f"{path} is a pickle, but not from torch.save. Save it with torch.save.")
    _interpreted(file, path)  # the protocol version
    order = "little" if _interpreted(file, path)["little_endian"] else "big"
    tree = _interpreted(file, path)
    codes = {leaf.key: leaf.code for leaf in _leaves(tree)}
    storages = {}
    for key in _interpreted(file, path):
        count = int.from_bytes(file.read(8), order)
        code = codes.get(key, "u1")
        data = file.read(count * _width(code))
        if len(data) < count * _width(code):
            raise _truncated(path, f"storage {key} ends after {len(data)} bytes")
        storages[key] = _decode(data, code, order)
    return _resolved(tree, lambda code, key: storages[key])


def _interpreted(file, path):
    try:
        return interpret(file)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read. {error}") from error


def _leaves(tree):
    """Yields the stored tensors of a tree of dicts, lists and tuples."""
    if isinstance(tree, StoredTensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(child)


def _resolved(tree, read: Callable[[str, str], np.ndarray]):
    """The tree with arrays in place of stored tensors; each storage is read once."""
    storages = {}

    def resolve(node):
        if isinstance(node, StoredTensor):
            if node.key not in storages:
                storages[node.key] = read(node.code, node.key)
            return node.view(storages[node.key])
        if isinstance(node, dict):
            return {key: resolve(child) for key, child in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(resolve(child) for child in node)
        return node

    return resolve(tree)


def _width(code):
    return 2 if code == "bf16" else np.dtype(code).itemsize


def _decode(data, code, order):
    """Numbers from bytes; bfloat16 is the upper half of a float32."""
    mark = "<" if order == "little" else ">"
    if code == "bf16":
        upper = np.frombuffer(data, f"{mark}u2").astype(np.uint32)
        return (upper << 16).view(np.float32)
    return np.frombuffer(data, np.dtype(code).newbyteorder(mark)).astype(code, copy=False)


def _truncated(path, why):
    return ValueError(f"{path} is truncated or damaged: {why}. Fetch it again.")
