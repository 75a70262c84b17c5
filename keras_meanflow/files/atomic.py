"""Writes files completely or not at all; checksums of files; the checkpoints in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
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
    _check_regular(path, path.is_file())
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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context with a temporary path for a file or a folder, which then takes the place of `path`.

    Raises:
        OSError: if it cannot be written; what was at `path` is then as it was before.
    """
    _check_regular(path, path.is_file() or path.is_dir())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (path.with_name(f"{TEMPORARY}{os.getpid()}{s}-{path.name}") for s in ("", "o"))
    try:
        with writing(path):
            yield temporary
            if path.is_dir():
                os.replace(path, old)
            os.replace(temporary, path)
    finally:
        for leftover in (temporary, old):
            _remove(leftover)


def _check_regular(path, regular):
    if path.exists() and not regular:
        raise ValueError(f"{path} is no regular file, and is not replaced. Name another file.")


def _remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
