"""`keras-meanflow recipes` and `train`."""

import shlex
import sys
from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    devices_option,
    distribution_option,
    one_line_errors,
    recorded_backend,
    several_devices,
    start,
    verbose_option,
)
from keras_meanflow.recipe import find, recipes, resolve


@click.group(name="recipes", invoke_without_command=True)
@click.pass_context
def recipes_command(context):
    """List the recipes; `recipes show NAME` shows one."""
    if context.invoked_subcommand is None:
        known = recipes()
        width = max(map(len, known))
        for name, found in known.items():
            click.echo(f"{name:{width}}  {found.summary}")


@recipes_command.command()
@click.argument("name")
def show(name):
    """Show a recipe's text, its knobs and their defaults."""
    with one_line_errors():
        found = find(name)
    click.echo(f"{found.doc}\n\nKnobs, for --set:")
    for knob, default in found.defaults.items():
        click.echo(f"  {knob}={default}")
    click.echo(f"\n{found.file}")


@click.command()
@click.argument("recipe")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Turn a knob.")
@click.option("--run", "run_dir", type=click.Path(), help="Directory; default runs/RECIPE.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; write nothing.")
@devices_option
@distribution_option
@backend_option
@verbose_option
def train(recipe, settings, run_dir, dry_run, devices, distribution, backend, verbose):
    """Train a RECIPE: its name, or your own file.py or file.py:function.

    The same command again goes on where the run stopped, on as many devices or on others.
    """
    with one_line_errors():
        found = find(recipe)
        run_dir = Path(run_dir or Path("runs") / found.name)
        start(choose_backend(backend, recorded_backend(run_dir)))
        function = found.load()
        knobs = resolve(function, settings)
        with several_devices(devices, distribution):
            _train(found, function, knobs, run_dir, dry_run, verbose)


def _train(found, function, knobs, run_dir, dry_run, verbose):
    from keras_meanflow.backend import process_index
    from keras_meanflow.training import run as runs

    settings = runs.describe(found.address, knobs, shlex.join(["keras-meanflow", *sys.argv[1:]]))
    runs.check_same(run_dir, settings)
    training = function(**knobs)
    if (dry_run or verbose) and process_index() == 0:
        _print_plan(training, settings, run_dir)
    if dry_run:
        training.check()
        return
    progress = (1 if sys.stdout.isatty() else 2) if verbose else 0
    done = runs.train(training, run_dir, settings, verbose=progress)
    if process_index() > 0:
        return
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
