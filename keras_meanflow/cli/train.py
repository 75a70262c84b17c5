"""`keras-meanflow tasks`, `methods` and `train`."""

import shlex
import sys
from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    devices_option,
    distribution_option,
    recorded_backend,
    several_devices,
    start,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors, traceback_option
from keras_meanflow.cli.options import OUT_FOLDER
from keras_meanflow.cli.plans import open_plan, plan_options
from keras_meanflow.recipe import Found, find, methods, tasks
from keras_meanflow.training.plan import Plan


@click.group(name="tasks", invoke_without_command=True)
@click.pass_context
def tasks_command(context):
    """List the tasks; `tasks show NAME` shows one of them."""
    if context.invoked_subcommand is None:
        _list(tasks())


@click.group(name="methods", invoke_without_command=True)
@click.pass_context
def methods_command(context):
    """List the methods; `methods show NAME` shows one of them."""
    if context.invoked_subcommand is None:
        _list(methods())


def _list(known: dict[str, Found]):
    width = max(map(len, known))
    for name, found in known.items():
        click.echo(f"{name:{width}}  {found.summary}")


@tasks_command.command("show")
@click.argument("name")
@traceback_option
def show_task(name):
    """Show a task: its knobs, its methods and their settings."""
    with one_line_errors():
        found = find(name, "task")
    _show(found)
    for size, settings in found.mark.get("sizes", {}).items():
        click.echo(f"  --size {size}: {_settings(settings)}")
    click.echo("\nMethods, for --method, and their settings on this task:")
    rows = found.mark.get("methods", {})
    suited = [one.name for one in methods().values() if not Plan(found, one).lacking()]
    for method in dict.fromkeys([row.partition(" ")[0] for row in rows] + suited):
        click.echo(f"  {method}")
        for row, settings in rows.items():
            if row.partition(" ")[0] == method and settings:
                click.echo(f"    {row.partition(' ')[2]} {_settings(settings)}".rstrip())
    if every := found.mark.get("every"):
        click.echo(f"  all methods: {_settings(every)}")
    click.echo(f"\n{found.file}")


@methods_command.command("show")
@click.argument("name")
@traceback_option
def show_method(name):
    """Show a method: its knobs, its settings on each task."""
    with one_line_errors():
        found = find(name, "method")
    _show(found)
    click.echo("\nSettings on each task:")
    for task in tasks().values():
        if not Plan(task, found).lacking():
            rows = task.mark.get("methods", {}).items()
            own = {row: s for row, s in rows if row.partition(" ")[0] == name}
            every = {k: v for k, v in task.mark.get("every", {}).items() if k in found.defaults}
            texts = [_settings({**every, **own.pop(name, {})})]
            texts += [f"{row.partition(' ')[2]}: {_settings(s)}" for row, s in own.items()]
            click.echo(f"  {task.name}: {'; '.join(filter(None, texts)) or 'the defaults'}")
    click.echo(f"\n{found.file}")


def _show(found):
    click.echo(f"{found.doc}\n\nKnobs, for --set:")
    for knob, default in found.defaults.items():
        click.echo(f"  {knob}={default}")


def _settings(settings):
    return " ".join(f"{knob}={value}" for knob, value in settings.items())


@click.command()
@plan_options
@click.option(
    "--run", "run_dir", type=OUT_FOLDER, help="Directory of the run; default runs/TASK_METHOD."
)
@click.option("--dry-run", is_flag=True, help="Show the plan and check it; write nothing.")
@devices_option
@distribution_option
@backend_option
@verbose_option
def train(task, method, size, settings, run_dir, dry_run, devices, distribution, backend, verbose):
    """Train a model on a TASK, by a method.

    TASK is a name from `keras-meanflow tasks`, or your file.py or file.py:function. The same
    command again resumes a run that was stopped, also on another number of devices. More steps
    than before make a run longer.
    """
    with one_line_errors():
        plan, settings, name = open_plan(task, method, size, settings)
        run_dir = Path(run_dir or Path("runs") / name)
        start(choose_backend(backend, recorded_backend(run_dir)))
        knobs = plan.resolve(settings)
        with several_devices(devices, distribution):
            _train(plan, knobs, run_dir, dry_run, verbose)


def _train(plan, knobs, run_dir, dry_run, verbose):
    from keras_meanflow.backend import process_index
    from keras_meanflow.training import run as runs

    settings = runs.describe(plan, knobs, shlex.join(["keras-meanflow", *sys.argv[1:]]))
    runs.check_same(run_dir, settings, may_lengthen=True)
    training = plan.training(knobs)
    if (dry_run or verbose) and process_index() == 0:
        _print_plan(training, settings, run_dir)
    if dry_run:
        training.check()
        return
    done = runs.train(training, run_dir, settings, verbose=int(verbose))
    if process_index() > 0:
        return
    click.echo(
        f"{run_dir} is finished: {training.steps} steps"
        + (f", {done} of them now." if done else ". Nothing was left to do.")
        + f" Samples: {run_dir / 'samples.png'}"
    )


def _print_plan(training, settings, run_dir):
    network = training.flow_map.network
    by = f" by {settings['method']}" if settings["method"] else ""
    click.echo(f"{settings['task']}{by} on {settings['backend']}, in {run_dir}")
    click.echo("  " + _settings(settings["knobs"]))
    click.echo(f"  {network.count_params():,} parameters, {len(training.data):,} samples of data")
