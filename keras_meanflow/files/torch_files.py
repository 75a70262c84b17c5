"""Reads torch files without torch: the zip format, and the older one."""

from __future__ import annotations

import io
import itertools
import math
import os
import zipfile
from collections.abc import Callable

import numpy as np

from keras_meanflow.files.numbers import decode, truncated, width
from keras_meanflow.files.pickles import StoredTensor, interpret
from keras_meanflow.files.reading import check_expansion, largest, reading

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch files before torch 1.6
MOST_NODES = 10**6  # values in a small file; in a large one, as many as it has bytes
LONGEST_PICKLE = 2**20  # bytes, of a compressed one


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
    with reading(path), open(path, "rb") as file:
        if zipfile.is_zipfile(file):
            return _read_zip(file, path)
        file.seek(0)
        return _read_legacy(file, path)


def _read_zip(file, path):
    check_expansion(path)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/")[1:] == ["data.pkl"]]
        if not pickles:
            raise ValueError(f"{path} is a zip, but not from torch.save: it has no data.pkl.")
        root = pickles[0].removesuffix("data.pkl")
        order = "little"
        if f"{root}byteorder" in names:
            order = archive.read(f"{root}byteorder").decode()

        if archive.getinfo(pickles[0]).file_size > max(LONGEST_PICKLE, os.path.getsize(path)):
            raise ValueError(f"{path} is no torch file: its pickle is longer than the file.")
        tree = _interpreted(io.BytesIO(_member(archive, pickles[0], path)), path)

        def storage(code, key):
            return decode(_member(archive, f"{root}data/{key}", path), code, order)

        return _resolved(tree, storage, largest(path))


def _member(archive, name, path):
    try:
        return archive.read(name)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise truncated(path, f"{name}: {error}") from error


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
        code = codes.get(key, "u1")
        needed = int.from_bytes(file.read(8), order) * width(code)
        left = os.path.getsize(path) - file.tell()
        if needed > left:
            raise truncated(path, f"storage {key} needs {needed} bytes, {left} are left")
        storages[key] = decode(file.read(needed), code, order)
    return _resolved(tree, lambda code, key: storages[key], largest(path))


def _interpreted(file, path):
    """One pickle. It may use a value twice; that must not make it far longer than the file."""
    tree = interpret(file)
    most = max(MOST_NODES, os.path.getsize(path))
    if sum(1 for _ in itertools.islice(_nodes(tree), most + 1)) > most:
        raise ValueError(f"{path} holds more than {most:,} values: more than a file of its size.")
    return tree


def _nodes(tree):
    """Yields a tree of dicts, lists and tuples, and everything in it."""
    yield tree
    if isinstance(tree, dict | list | tuple) and not isinstance(tree, StoredTensor):
        for child in tree.values() if isinstance(tree, dict) else tree:
            yield from _nodes(child)


def _leaves(tree):
    """The stored tensors of a tree."""
    return (node for node in _nodes(tree) if isinstance(node, StoredTensor))


def _resolved(tree, read: Callable[[str, str], np.ndarray], most: int):
    """The tree with arrays, of `most` bytes, in place of stored tensors; reads a storage once."""
    storages = {}
    needed = sum(math.prod(leaf.shape) * width(leaf.code) for leaf in _leaves(tree))
    if needed > most:
        raise ValueError(f"Its tensors would take {needed:,} bytes. The limit is {most:,}.")

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
