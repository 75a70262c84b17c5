"""The command line: `keras-meanflow recipes`, `train`, `sample`, `export`.

Keras is imported inside the commands, once the backend is chosen.
"""

import contextlib
import importlib.util
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

import click

from keras_meanflow.recipe import find, recipes, resolve

BACKENDS = ("jax", "tensorflow", "torch")

_BACKEND = click.option(
    "--backend", type=click.Choice(BACKENDS), help="Wins over the environment's KERAS_BACKEND."
)
_VERBOSE = click.option(
    "--verbose/--quiet", "-v/-q", default=True, help="Whether to show progress."
)


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
        chosen = next(filter(_is_installed, BACKENDS), None)
    if chosen is None:
        raise ValueError(
            "No backend is installed. Install one: pip install 'keras_meanflow[jax]' (or "
            "tensorflow, torch)."
        )
    if chosen not in BACKENDS:
        raise ValueError(f"The backend is one of {', '.join(BACKENDS)}. Received: {chosen!r}.")
    if not _is_installed(chosen):
        raise ValueError(
            f"The backend {chosen} is not installed. Install it: "
            f"pip install 'keras_meanflow[{chosen}]'"
        )
    return chosen


def _is_installed(backend):
    return importlib.util.find_spec(backend) is not None


def _start(backend):
    """Import Keras on a backend, whose chatter is shown only if that fails."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _withheld_stderr():
        import keras

        import keras_meanflow.runs  # noqa: F401

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
def _one_line_errors():
    """What users can mend ends in one line and exit code 1."""
    try:
        yield
    except (ValueError, ArithmeticError, OSError, ImportError) as error:
        raise click.ClickException(" ".join(str(error).split())) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras_meanflow")
def main():
    """Train and use MeanFlow models: one network, one step."""


@main.group(name="recipes", invoke_without_command=True)
@click.pass_context
def recipes_group(context):
    """List the recipes; `recipes show NAME` shows one."""
    if context.invoked_subcommand is None:
        known = recipes()
        width = max(map(len, known))
        for name, found in known.items():
            click.echo(f"{name:{width}}  {found.summary}")


@recipes_group.command()
@click.argument("name")
def show(name):
    """Show a recipe's text, its knobs and their defaults."""
    with _one_line_errors():
        found = find(name)
    click.echo(f"{found.doc}\n\nKnobs, for --set:")
    for knob, default in found.defaults.items():
        click.echo(f"  {knob}={default}")
    click.echo(f"\n{found.file}")


@main.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Turn a knob.")
@click.option("--run", "run_dir", type=click.Path(), help="Directory; default runs/RECIPE.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@_BACKEND
@_VERBOSE
def train(recipe, settings, run_dir, dry_run, backend, verbose):
    """Train a RECIPE: its name, or your own file.py or file.py:function.

    The same command again goes on where the run stopped.
    """
    with _one_line_errors():
        found = find(recipe)
        run_dir = Path(run_dir or Path("runs") / found.name)
        _start(choose_backend(backend, _recorded_backend(run_dir)))
        function = found.load()
        knobs = resolve(function, settings)
        _train(found, function, knobs, run_dir, dry_run, verbose)


def _train(found, function, knobs, run_dir, dry_run, verbose):
    from keras_meanflow import runs

    name = found.name if found == recipes().get(found.name) else f"{found.file}:{found.name}"
    settings = runs.describe(name, knobs, shlex.join(["keras-meanflow", *sys.argv[1:]]))
    runs.check_same(run_dir, settings)
    training = function(**knobs)
    if dry_run or verbose:
        _print_plan(training, settings, run_dir)
    if dry_run:
        training.check()
        return
    progress = (1 if sys.stdout.isatty() else 2) if verbose else 0
    done = runs.train(training, run_dir, settings, verbose=progress)
    click.echo(
        f"{run_dir} is finished: {training.steps} steps"
        + (f", {done} of them now." if done else ". Nothing was left to do.")
        + f" Samples: {run_dir / 'samples.png'}"
    )


def _print_plan(training, settings, run_dir):
    network = training.flow_map.network
    click.echo(f"{settings['recipe']} on {settings['backend']}, in {run_dir}")
    click.echo("  " + " ".join(f"{name}={value}" for name, value in settings["knobs"].items()))
    click.echo(f"  {network.count_params():,} parameters, {len(training.data):,} samples of data")


def _recorded_backend(run_dir):
    """The backend in a run's settings, read without Keras; None if there is no run."""
    path = Path(run_dir) / "settings.json"
    return json.loads(path.read_text("utf-8"))["backend"] if path.is_file() else None


def _load(run_dir, backend):
    """The FlowMap of a run, on the recorded backend or, without it, on any that is installed."""
    recorded = _recorded_backend(run_dir)
    _start(choose_backend(backend, recorded if recorded and _is_installed(recorded) else None))
    from keras_meanflow import runs

    _import_recipe(runs.read_settings(run_dir))
    return runs.load(run_dir)


def _import_recipe(settings):
    """Import a user's recipe file, which may hold the classes that its model needs."""
    name = (settings or {}).get("recipe") or ""
    if ".py:" in name and Path(name.partition(".py:")[0] + ".py").is_file():
        find(name).load()


@main.command()
@click.argument("run_dir", metavar="RUN")
@click.option("--labels", help="Classes, as in 3 or 0,1,2 or 0-9; default all of them in turn.")
@click.option("-n", "count", type=click.IntRange(1), default=100, help="Number of samples.")
@click.option("--steps", type=int, default=1, help="Jumps of the flow map.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the noise.")
@click.option("--average/--raw", default=True, help="Averaged or raw weights.")
@click.option("--guidance-scale", type=float, help="For models without guidance in training.")
@click.option("--columns", type=click.IntRange(1), help="Of the picture.")
@click.option("--out", type=click.Path(), help="Picture to write; default RUN/generated.png.")
@click.option("--npz", is_flag=True, help="Also write the samples, beside the picture.")
@_BACKEND
@_VERBOSE
def sample(
    run_dir,
    labels,
    count,
    steps,
    seed,
    average,
    guidance_scale,
    columns,
    out,
    npz,
    backend,
    verbose,
):
    """Draw samples with the model of a RUN."""
    with _one_line_errors():
        flow_map = _load(run_dir, backend)
        if not average:
            flow_map.average = None
        labels = _labels(labels, count, flow_map.network.num_classes)
        samples = flow_map.generate(
            labels,
            steps=steps,
            seed=seed,
            guidance_scale=guidance_scale,
            verbose="auto" if verbose else 0,
        )
        _write(samples, labels, Path(out or Path(run_dir) / "generated.png"), columns, npz)


def _labels(text, count, classes):
    """Labels for `generate`: `count` of them in turn, or the count if there are no classes."""
    if classes is None:
        if text is not None:
            raise ValueError("This model knows no classes: leave --labels out.")
        return count
    import numpy as np

    chosen = list(range(classes)) if text is None else _parse_labels(text)
    return np.resize(np.array(chosen, "int32"), count)


def _parse_labels(text):
    labels = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            labels += range(int(first), int(last or first) + 1)
    except ValueError:
        labels = []
    if not labels:
        raise ValueError(f"--labels are numbers, as in 3 or 0,1,2 or 0-9. Received: {text!r}.")
    return labels


def _write(samples, labels, out, columns, npz):
    import numpy as np

    from keras_meanflow.callbacks import write_atomically
    from keras_meanflow.pictures import draw_samples

    written = [out]
    picture = draw_samples(samples, columns=columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, picture.save)
    if npz:
        written.append(out.with_suffix(".npz"))
        arrays = {"x": samples} if np.ndim(labels) == 0 else {"x": samples, "y": labels}
        write_atomically(written[1], lambda path: np.savez(path, **arrays))
    click.echo(f"{len(samples)} samples: {', '.join(map(str, written))}")


@main.command()
@click.argument("run_dir", metavar="RUN")
@click.argument("out", type=click.Path())
@click.option("--steps", type=int, default=1, help="Jumps of the flow map.")
@click.option("--format", help="tf_saved_model, torch, onnx, ... of keras.Model.export.")
@_BACKEND
@_VERBOSE
def export(run_dir, out, steps, format, backend, verbose):
    """Write the sampler of a RUN, noise and label to sample, for others to run."""
    with _one_line_errors():
        flow_map = _load(run_dir, backend)
        flow_map.export(out, steps=steps, format=format, verbose=verbose)
        click.echo(f"The sampler is in {out}.")
