"""What the commands share: the choice of the backend, the loading of a run, errors in one line."""

import contextlib
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

import click

from keras_meanflow.recipe import find

BACKENDS = ("jax", "tensorflow", "torch")

backend_option = click.option(
    "--backend", type=click.Choice(BACKENDS), help="Wins over the environment's KERAS_BACKEND."
)
verbose_option = click.option(
    "--verbose/--quiet", "-v/-q", default=True, help="Whether to show progress."
)


devices_option = click.option(
    "--devices", type=int, help="How many; of all processes together. Default one, or all there."
)
distribution_option = click.option(
    "--distribution",
    metavar="data|model=N",
    help="Devices divide the batch, or N of them the weights too (JAX).",
)


def several_devices(devices, distribution):
    """A context in which models are made for, and trained on, the devices asked for.

    Raises:
        ValueError: for another distribution than data or model=N, or devices that are not there.
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


def choose_backend(asked=None, recorded=None):
    """The backend to use: what is asked for, the environment's, the recorded, the first installed.

    Args:
        asked: from `--backend`.
        recorded: of the run, or None.

    Raises:
        ValueError: for a backend that is not installed, with what installs it.
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


def is_installed(backend):
    return importlib.util.find_spec(backend) is not None


def start(backend):
    """Import Keras on a backend, whose chatter is shown only if that fails."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _withheld_stderr():
        import keras

        from keras_meanflow.backend import join_processes

        join_processes()
        import keras_meanflow.training.run  # noqa: F401

        keras.utils.set_random_seed(0)  # which imports TensorFlow wherever it is installed


@contextlib.contextmanager
def _withheld_stderr():
    """Keep what libraries write to the standard error, C++ included, unless an error follows.

    TensorFlow announces itself before it reads TF_CPP_MIN_LOG_LEVEL.
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


@contextlib.contextmanager
def one_line_errors():
    """What users can mend ends in one line and exit code 1."""
    try:
        yield
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error


def recorded_backend(run_dir):
    """The backend in a run's settings, read without Keras; None if there is no run."""
    path = Path(run_dir) / "settings.json"
    return json.loads(path.read_text("utf-8"))["backend"] if path.is_file() else None


def open_named(name, backend, **settings):
    """`open_model` of a name, on its run's backend or, without one, on any that is installed."""
    recorded = recorded_backend(name)
    start(choose_backend(backend, recorded if recorded and is_installed(recorded) else None))
    from keras_meanflow.flow_map import open_model
    from keras_meanflow.training import run

    if recorded is not None:
        _import_own_files(run.read_settings(name))
    return open_model(name, **settings)


def _import_own_files(settings):
    """Import a user's files of a task or method, which may hold the classes that a model needs."""
    for kind in ("task", "method", "recipe"):
        address = settings.get(kind) or ""
        path = Path(address.partition(".py:")[0] + ".py")
        if ".py:" in address and path.is_file():
            find(address, "task" if kind == "recipe" else kind).load()
