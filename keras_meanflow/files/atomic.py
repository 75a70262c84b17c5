"""Writes files completely or not at all; checksums of files; the checkpoints in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
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


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Context in which an error in writing, such as a full disk, names the file."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise OSError(f"{path} could not be written: {reason}") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file with `write(temporary)`, then rename it: it is complete or not there at all.

    Raises:
        OSError: if it cannot be written; it is then as it was before.
        ValueError: for a device, a folder or a pipe in its place.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file, and is not replaced. Name another file.")
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with writing(path):
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
