"""A user's own files: imported, and so run, only where the command line names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from keras_meanflow.recipe import found_in, import_file

recipe_option = click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="FILE",
    help="Import your .py file, which defines classes of the model. This runs it: trust it first.",
)


def import_recipes(files: Iterable[str]) -> None:
    """Import the files of `--recipe`."""
    for file in files:
        import_file(file)


def own_files(settings: dict) -> list[str]:
    """The addresses, `FILE:NAME`, of a user's task and method in the settings of a run."""
    addresses = (settings.get(kind) for kind in ("task", "method", "recipe"))
    return [address for address in addresses if isinstance(address, str) and ".py:" in address]


def with_named_files(settings: dict, files: Sequence[str]) -> dict:
    """The settings of a run, with the files of `--recipe` in the place of the recorded ones.

    Raises:
        ValueError: for a recorded file that is not named: to use its task runs the file.
    """
    places = {
        found.name: f"{Path(file).resolve()}:{found.name}"
        for file in files
        for kind in ("task", "method")
        for found in found_in(file, kind)
    }
    changed = dict(settings)
    for kind in ("task", "method", "recipe"):
        address = settings.get(kind)
        if address in own_files(settings):
            file, _, name = address.rpartition(":")
            if name not in places:
                raise ValueError(
                    f"The run was trained by {name} of {file}, a file of code. If you trust it, "
                    f"name it: --recipe {file}"
                )
            changed[kind] = places[name]
    return changed
