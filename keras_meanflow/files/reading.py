"""What holds for every foreign file: one line for a damaged one, and limits by its own size."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

EXPANSION, FREE = 64, 2**28  # a file may hold 64 times its size in memory; up to 256 MB, any file
_KINDS = (  # how a file that is something else begins, and what it is
    (rb"version https://git-lfs", "It is the pointer of Git LFS to a file: run `git lfs pull`."),
    (rb"\s*<(!doctype html|html|head)", "It is an HTML page: a download gave a page for the file."),
    (
        rb'\s*\{.*"weight_map"',
        "It is the index of a checkpoint in several files: join them into one file first.",
    ),
)


@contextlib.contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Within, each error of a damaged or foreign file is a ValueError of one line that names it.

    A missing file, a missing right to read and a missing package stay what they are.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:  # what a parser raises for wrong bytes has no common class
        if isinstance(error, OSError) and error.filename is not None:
            raise
        kind = _kind(path)
        if isinstance(error, ValueError) and str(path) in str(error) and not kind:
            raise
        raise ValueError(f"{path} cannot be read. {kind or _reason(error)}") from error


def _kind(path):
    """A sentence: what the file is, if it is something else that one meets in its place."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as file:
        start = file.read(2**16)
    return next((text for begin, text in _KINDS if re.match(begin, start, re.I | re.S)), None)


def _reason(error):
    """A sentence: what is wrong with the file."""
    text = " ".join(str(error).split())
    missing = re.search(r"Could not locate (class|function) '(\w+)'", text)
    if missing:
        return (
            f"It needs the {missing[1]} {missing[2]!r}, which is not imported. Import your file "
            "that defines it before; on the command line pass it: --recipe FILE."
        )
    if isinstance(error, ValueError):
        return text
    return f"It is damaged or of another kind ({type(error).__name__}: {text[:200]})."


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: for a file that is not JSON, or holds no object; it names the file.
    """
    with reading(path), open(path, encoding="utf-8") as file:
        content = json.load(file)
        if not isinstance(content, dict):
            raise ValueError(f"It must hold a JSON object. Received: {type(content).__name__}.")
        return content


def check_fields(path: str | os.PathLike, content: dict, fields: dict[str, type]) -> None:
    """Raise a ValueError unless the object of a JSON file has these entries, of these types."""
    for name, kind in fields.items():
        value = content.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            expected = getattr(kind, "__name__", kind)
            raise ValueError(
                f"{path} is damaged or of another kind: {name} must be of type {expected}. "
                f"Received: {value!r:.80}."
            )


@contextlib.contextmanager
def open_npz(path: str | os.PathLike) -> Iterator[np.lib.npyio.NpzFile]:
    """An `.npz` file to read arrays from; errors as in `reading`. A pickle in it is refused."""
    check_zip(path)
    with reading(path), np.load(path, allow_pickle=False) as stored:
        yield stored


def largest(path: str | os.PathLike) -> int:
    """The bytes that the contents of a file may take in memory."""
    return max(FREE, EXPANSION * os.path.getsize(path))


def check_expansion(path: str | os.PathLike) -> None:
    """Raise a ValueError for a zip that would take far more memory than its size."""
    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
    if total > largest(path):
        raise ValueError(
            f"{path} of {os.path.getsize(path):,} bytes would become {total:,}. The limit is "
            f"{EXPANSION} times its size."
        )


def check_zip(path: str | os.PathLike) -> None:
    """Raise a ValueError for a zip that is damaged: each file in it has a checksum."""
    with reading(path):
        check_expansion(path)
        with zipfile.ZipFile(path) as archive:
            damaged, found = archive.testzip(), len(archive.infolist())
        if damaged is not None:
            raise ValueError(f"{path} is damaged at {damaged}.")
        if _announced(path) not in (None, found):
            raise ValueError(
                f"{path} is damaged: {found} of its {_announced(path)} parts are left."
            )


def _announced(path):
    """The number of files that the end of a zip announces; Python's reader does not look at it."""
    with open(path, "rb") as file:
        file.seek(max(os.path.getsize(path) - 2**16, 0))
        end = file.read()
    at = end.rfind(b"PK\5\6") + 10
    count = int.from_bytes(end[at : at + 2], "little")
    return None if count == 0xFFFF else count  # more are counted elsewhere
