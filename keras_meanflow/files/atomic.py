"""Writes files completely or not at all; checksums of files; the checkpoints in a folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

TEMPORARY = "tmp-"


def latest_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The path of the newest checkpoint in a folder, or None."""
    return next(reversed(checkpoints(folder)), None)


def checkpoints(folder: str | os.PathLike) -> list[Path]:
    """The paths of all checkpoints in a folder, the newest last."""
    return sorted(Path(folder).glob("step-*.keras"))


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file with `write(temporary)`, then rename it: it is complete or not there at all."""
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
