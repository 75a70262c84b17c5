"""Files that appear complete or not at all, their checksums, and the newest checkpoint."""

import hashlib
import os
from pathlib import Path

TEMPORARY = "tmp-"


def latest_checkpoint(folder):
    """The path of the newest checkpoint in a folder, or None."""
    return next(reversed(checkpoints(folder)), None)


def checkpoints(folder):
    """The paths of all checkpoints in a folder, the newest last."""
    return sorted(Path(folder).glob("step-*.keras"))


def sha256_of(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path, text):
    """Write a text file, complete or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def write_atomically(path, write):
    """Let `write(path)` write a file that appears complete or not at all, whatever happens."""
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
