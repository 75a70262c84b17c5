"""How a result was made: backend, versions, commit."""

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

import keras

from keras_meanflow import __version__

_VERSIONS = ("keras", "numpy", "jax", "tensorflow", "torch")


def provenance() -> dict[str, Any]:
    """The backend, the versions of the packages and the commit, as JSON values by name."""
    return {"backend": keras.config.backend(), "versions": _versions(), "git_commit": _git_commit()}


def _versions():
    versions = {"keras_meanflow": __version__}
    for name in _VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit():
    """The commit of the checkout that the package runs from, "-dirty" if changed, or None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
