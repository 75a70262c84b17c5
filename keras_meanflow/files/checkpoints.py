"""The newest checkpoint that is whole. Each part of the zip file has a checksum."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path

from keras_meanflow.files.atomic import checkpoints
from keras_meanflow.files.reading import check_zip

PARTS = {"metadata.json", "config.json", "model.weights.h5"}


def whole_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The path of the newest checkpoint in a folder that is whole; None if there is no checkpoint.

    Damaged ones are left out, with a warning that names them.

    Raises:
        ValueError: if there are checkpoints, and all are damaged.
    """
    damaged = {}
    for path in reversed(checkpoints(folder)):
        damage = damage_of(path)
        if damage is None:
            if damaged:
                warnings.warn(f"{_listed(damaged)}: {path} is used instead.", stacklevel=3)
            return path
        damaged[path] = damage
    if damaged:
        raise ValueError(
            f"{_listed(damaged)}, and there is no other checkpoint. Put back a copy, or train in "
            "another directory."
        )
    return None


def damage_of(path: Path) -> str | None:
    """Why a checkpoint cannot be read, or None: each part is compared with its checksum."""
    try:
        check_zip(path)
        with zipfile.ZipFile(path) as archive:
            lacking = sorted(PARTS - set(archive.namelist()))
    except Exception as error:  # damage at any place of a zip is another error of `zipfile`
        return " ".join(str(error).split()) or type(error).__name__
    return f"it lacks {lacking[0]}" if lacking else None


def _listed(damaged):
    return " and ".join(f"{path} is damaged ({reason})" for path, reason in damaged.items())
