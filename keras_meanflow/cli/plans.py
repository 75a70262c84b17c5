"""A task by a method on the command line: what `train`, `bench` and `study` have in common."""

import click

from keras_meanflow.recipe import tasks
from keras_meanflow.training.old_names import of_old_name
from keras_meanflow.training.plan import Plan

OPTIONS = (
    click.argument("task"),
    click.option("--method", help="Default: the task's first; `tasks show TASK` lists them."),
    click.option("--size", help="Of a task with sizes: --set size=..."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Turn a knob."),
)


def plan_options(command):
    """Adds the options that `open_plan` takes."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def open_plan(task, method, size, settings):
    """The plan of these options, its settings as texts, and the name of its run's directory.

    A recipe of version 0.1.0 answers with a warning.
    """
    settings = [*([f"size={size}"] if size is not None else []), *settings]
    old = None if task in tasks() or method else of_old_name(task)
    if old is None:
        plan = Plan.of(task, method)
        sized = next((s.partition("=")[2] for s in settings if s.startswith("size=")), "")
        return plan, settings, "_".join(filter(None, [plan.task.name, sized, plan.method_in_name]))
    plan, changes = old
    now = " ".join(["train", plan.task.name, f"--method {plan.method.name}"])
    now += "".join(f" --set {knob}={value}" for knob, value in changes.items() if value is not None)
    click.echo(f"{task} is now: keras-meanflow {now}. The old name goes with 0.3.0.", err=True)
    given = {text.partition("=")[0] for text in settings}
    added = [f"{k}={v}" for k, v in changes.items() if v is not None and k not in given]
    return plan, [*added, *_renamed(plan, settings)], task


def _renamed(plan, settings):
    """Settings of a recipe of version 0.1.0 under their new names."""
    new = {"re_mean_flow": {"data": "pair_store"}, "re_mean_flow_guided": {"data": "pair_store"}}
    names = new.get(plan.method.name, {})
    if plan.task.name == "speech_digits":
        names = {**names, "exponent": "gap_exponent"}
    pairs = (text.partition("=") for text in settings)
    return [f"{names.get(name, name)}{equals}{value}" for name, equals, value in pairs]
