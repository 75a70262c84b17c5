"""The settings file of a run. It is read without Keras, since it names the backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_meanflow.files.atomic import TEMPORARY, write_text

SETTINGS, LOCK = "settings.json", ".lock"


def settings_in(run_dir: str | Path) -> dict[str, Any] | None:
    """The settings of a run; None for a folder without a settings file.

    Raises:
        ValueError: for a settings file that is damaged.
    """
    path = Path(run_dir) / SETTINGS
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(_damaged(path, f"it is not JSON ({error})")) from error
    if reason := _fault(settings):
        raise ValueError(_damaged(path, reason))
    return settings


def read_settings(run_dir: str | Path) -> dict[str, Any] | None:
    """The settings of a run; None if the directory does not exist or is empty.

    Raises:
        ValueError: for a directory with other files and no settings, or with damaged settings.
    """
    run_dir = Path(run_dir)
    settings = settings_in(run_dir)
    if settings is None and (run_dir.is_file() or (run_dir.is_dir() and _holds_files(run_dir))):
        raise ValueError(f"{run_dir} is no run: it has no {SETTINGS}. Name another with --run DIR.")
    return settings


def write_settings(run_dir: str | Path, settings: dict[str, Any]) -> None:
    """Write the settings of a run, completely or not at all."""
    write_text(Path(run_dir) / SETTINGS, json.dumps(settings, indent=2) + "\n")


def _holds_files(run_dir):
    """Whether a folder holds more than a process that was killed at its start leaves there."""
    names = (path.name for path in run_dir.iterdir())
    return any(name != LOCK and not name.startswith(TEMPORARY) for name in names)


def _fault(settings):
    """What is wrong in the settings of a run, or None."""
    if not isinstance(settings, dict):
        return f"it holds a {type(settings).__name__}, not an object"
    for name, kinds in (("backend", str), ("knobs", dict)):
        if not isinstance(settings.get(name), kinds):
            return f"its entry {name!r} is {settings.get(name)!r}"
    names = {name: settings.get(name) for name in ("task", "method", "recipe")}
    wrong = [name for name, value in names.items() if not isinstance(value, str | None)]
    return f"its entry {wrong[0]!r} is no text" if wrong else None


def _damaged(path, reason):
    return (
        f"{path} is damaged: {reason}. Put back a copy of it, or open a file of "
        f"{path.parent / 'checkpoints'} instead of the run."
    )
