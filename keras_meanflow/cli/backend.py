"""Shared by the commands: choose the backend, open a run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_meanflow.cli.recipes import import_recipes
from keras_meanflow.training.settings import SETTINGS, settings_in

if TYPE_CHECKING:
    from keras_meanflow.flow_map import Opened

BACKENDS = ("jax", "tensorflow", "torch")

backend_option = click.option(
    "--backend", type=click.Choice(BACKENDS), help="Default: $KERAS_BACKEND, or the run's."
)
verbose_option = click.option("--verbose/--quiet", "-v/-q", default=True, help="Show progress.")


devices_option = click.option(
    "--devices",
    type=click.IntRange(1),
    help="Number, over all processes; default 1, or all of them.",
)
distribution_option = click.option(
    "--distribution",
    metavar="data|model=N",
    help="data: split the batch over the devices; model=N: split the weights over N too (JAX).",
)


def several_devices(
    devices: int | None, distribution: str | None
) -> contextlib.AbstractContextManager:
    """A context for building and training models on these devices.

    Raises:
        ValueError: for a distribution that is not data or model=N, or for missing devices.
    """
    from keras_meanflow.backend import distributed, process_count
    from keras_meanflow.networks import DIT_LAYOUT

    if devices is None and distribution is None and process_count() == 1:
        return contextlib.nullcontext()
    kind, _, count = (distribution or "data").partition("=")
    if (kind, bool(count)) not in (("data", False), ("model", True)) or not (
        count or "1"
    ).isdigit():
        raise ValueError(f"--distribution is data or model=N. Received: {distribution!r}.")
    return distributed(devices, int(count or 1), DIT_LAYOUT)


def choose_backend(asked: str | None = None, recorded: str | None = None) -> str:
    """The first of: the option, the environment, the backend of the run, the first installed one.

    Args:
        asked: the option `--backend`.
        recorded: the backend of the run, or None.

    Raises:
        ValueError: for a backend that is not installed; the message says how to install it.
    """
    chosen = asked or os.environ.get("KERAS_BACKEND") or recorded
    if not chosen:
        chosen = next(filter(is_installed, BACKENDS), None)
    if chosen is None:
        raise ValueError(
            "No backend is installed. Install one: pip install 'keras_meanflow[jax]' (or "
            "tensorflow, torch)."
        )
    if chosen not in BACKENDS:
        raise ValueError(f"The backend is one of {', '.join(BACKENDS)}. Received: {chosen!r}.")
    if not is_installed(chosen):
        raise ValueError(
            f"The backend {chosen} is not installed. Install it: "
            f"pip install 'keras_meanflow[{chosen}]'"
        )
    return chosen


def is_installed(backend: str) -> bool:
    return importlib.util.find_spec(backend) is not None


def start(backend: str) -> None:
    """Import Keras on a backend. Messages of the libraries are shown only if this fails."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _withheld_stderr():
        import keras

        from keras_meanflow.backend import join_processes

        join_processes()
        import keras_meanflow.training.run  # noqa: F401

        keras.utils.set_random_seed(0)  # this imports TensorFlow if it is installed


@contextlib.contextmanager
def _withheld_stderr():
    """Hide what libraries write to the standard error, also from C++; show it after an error.

    TensorFlow prints a message before it reads TF_CPP_MIN_LOG_LEVEL.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as withheld:
        os.dup2(withheld.fileno(), 2)
        try:
            yield
        except BaseException:
            withheld.seek(0)
            os.write(kept, withheld.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def recorded_backend(run_dir: str | Path) -> str | None:
    """The backend in a run's settings, read without Keras; None if there is no run.

    Raises:
        ValueError: for damaged settings, or another name than that of a backend.
    """
    settings = settings_in(run_dir)
    if settings is None:
        return None
    if settings["backend"] not in BACKENDS:
        raise ValueError(
            f"{Path(run_dir) / SETTINGS} must name a backend, one of {', '.join(BACKENDS)}. "
            f"Received: {settings['backend']!r}."
        )
    return settings["backend"]


def open_named(
    name: str, backend: str | None, recipes: Sequence[str] = (), **settings: Any
) -> Opened:
    """`open_model` of a name, on the backend of its run if this is installed, or on another one.

    Args:
        name: of the model. Nothing that it refers to is imported.
        backend: the option `--backend`.
        recipes: the user's files to import, of the option `--recipe`.
        **settings: of `open_model`.
    """
    recorded = recorded_backend(name)
    start(choose_backend(backend, recorded if recorded and is_installed(recorded) else None))
    from keras_meanflow.flow_map import open_model

    import_recipes(recipes)
    return open_model(name, **settings)
