"""What the name of a model stands for: only this module decides it."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path

from keras_meanflow.files.fetching import HUGGING_FACE, fetch, split_address
from keras_meanflow.formats.checkpoints import CHECKPOINTS, Checkpoint

SETTINGS = "settings.json"  # of a run
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"  # of a preset


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a model is.

    Args:
        name: as given.
        kind: "run" (a training's directory), "preset" (what `save_to_preset` wrote), "saved" (a
            `.keras` file), "checkpoint" (known by name or address) or "weights" (a file).
        known: a checkpoint's entry in the table, or None.
    """

    name: str
    kind: str
    known: Checkpoint | None = None

    @property
    def remote(self) -> bool:
        """Whether it is on the Hugging Face hub."""
        return self.name.startswith(HUGGING_FACE)

    def folder(self) -> Path:
        """The folder of a run or preset, fetched if need be."""
        if self.kind == "preset" and self.remote:
            fetch(f"{self.name}/{WEIGHTS}")
            return fetch(f"{self.name}/{CONFIG}").parent
        return Path(self.name)

    def file(self, path: str | Path | None = None) -> str | Path:
        """The file of a checkpoint or of weights, fetched if need be.

        Args:
            path: the checkpoint's file, if it was fetched by hand.

        Raises:
            ValueError: for a checkpoint that a browser has to fetch.
        """
        if path is not None:
            return path
        if self.known is None:
            return fetch(self.name) if self.remote else self.name
        if self.known.by_hand:
            raise ValueError(
                f"A browser has to fetch {self.name} from {self.known.address}. Unpack it if it is "
                "a zip, and give its path: from_preset(..., path=FILE)."
            )
        return fetch(self.known.address, self.known.sha256)


def place_of(name: str | Path) -> Place:
    """What a name stands for: a run, a preset, a saved model, a known checkpoint, or weights.

    Nothing is fetched yet.

    Raises:
        ValueError: for a name that stands for nothing, with the nearest known checkpoints.

    Example:
        >>> place_of("runs/digits").kind
        'run'
    """
    name, path = str(name), Path(name)
    if (path / SETTINGS).is_file():
        return Place(name, "run")
    if (path / CONFIG).is_file():
        return Place(name, "preset")
    known = known_checkpoint(name)
    if known is not None:
        return Place(name, "checkpoint", known)
    if name.startswith(HUGGING_FACE):
        return Place(name, "weights" if split_address(name)[2] else "preset")
    if path.is_dir() and not any(path.iterdir()):
        raise ValueError(f"{name} is empty: there is no model in it.")
    if not path.exists():
        raise ValueError(_unknown(name))
    return Place(name, "saved" if path.suffix == ".keras" else "weights")


def known_checkpoint(name: str) -> Checkpoint | None:
    """The table's entry of this name or address, or None."""
    by_address = {checkpoint.address: checkpoint for checkpoint in CHECKPOINTS.values()}
    return CHECKPOINTS.get(name) or by_address.get(name)


def _unknown(name):
    near = difflib.get_close_matches(name, CHECKPOINTS, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return (
        f"There is no model {name!r}.{hint} A model is a run's directory, a preset's folder, a "
        f"file of weights, hf://OWNER/REPOSITORY, or one of {', '.join(CHECKPOINTS)}."
    )
