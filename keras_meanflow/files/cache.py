"""The folder that keeps fetched files, and the check of a checksum."""

from __future__ import annotations

import os
from pathlib import Path

from keras_meanflow.files.atomic import sha256_of


def cache_folder() -> Path:
    """The folder of fetched files: `$KMF_CACHE`, or `~/.cache/keras_meanflow`."""
    return Path(os.environ.get("KMF_CACHE", Path.home() / ".cache" / "keras_meanflow"))


def check_sha256(path: str | os.PathLike, expected: str | None) -> str:
    """The SHA-256 of a file, compared with the expected one unless that is None.

    Raises:
        ValueError: for another checksum than the expected one.
    """
    found = sha256_of(path)
    if expected is not None and found != expected:
        raise ValueError(
            f"{path} has SHA-256 {found}, not {expected}: it is not the file that was published. "
            "Delete it and fetch it again, or pass the checksum of the file you trust."
        )
    return found
