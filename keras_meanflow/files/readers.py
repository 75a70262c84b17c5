"""Reads published weights into NumPy: without torch or flax, and without running a pickle.

A torch file holds a pickle, a program that may import and call anything. Here an interpreter
handles its instructions one by one. It supports numbers, strings, containers and tensors, and
imports nothing. A file that asks for anything else is refused.
"""

from __future__ import annotations

import os
import zipfile

import numpy as np

from keras_meanflow.files.msgpack import unpack
from keras_meanflow.files.numbers import truncated
from keras_meanflow.files.reading import open_npz, reading
from keras_meanflow.files.safetensors import read_safetensors
from keras_meanflow.files.torch_files import read_torch

_MSGPACK_MAPS = [bytes([first]) for first in (*range(0x81, 0x90), 0xDE, 0xDF)]


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
    with open_npz(path) as arrays:
        return {name: arrays[name] for name in arrays}


def read_flax(path: str | os.PathLike) -> object:
    """The nested dicts of arrays of a flax `.msgpack` file; bfloat16 becomes float32.

    Args:
        path: The file.

    Raises:
        ValueError: When the file is truncated, or holds more than arrays, text and numbers.

    Example:
        >>> tree = read_flax("checkpoint_0")
    """
    with reading(path), open(path, "rb") as file:
        try:
            return unpack(file.read())
        except ValueError as error:
            raise truncated(path, error) from error


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


def _is_npz(path):
    with reading(path), zipfile.ZipFile(path) as archive:
        return bool(archive.namelist()) and all(n.endswith(".npy") for n in archive.namelist())
