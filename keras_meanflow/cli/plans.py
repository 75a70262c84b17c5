"""Read a task, a method and their settings from the command line: `train`, `bench`, `study`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from keras_meanflow.recipe import tasks
from keras_meanflow.training.old_names import of_old_name
from keras_meanflow.training.plan import Plan

OPTIONS = (
    click.argument("task"),
    click.option(
        "--method",
        help="Name of a method, or your file; default: the task's first. See `tasks show TASK`.",
    ),
    click.option(
        "--size", help="Size of the model, for a task with several; the same as --set size=SIZE."
    ),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Set a knob of the task or the method; may be repeated.",
    ),
)


def plan_options(command: Callable) -> Callable:
    """Adds the options for `open_plan`."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def open_plan(
    task: str, method: str | None, size: str | None, settings: Sequence[str]
) -> tuple[Plan, list[str], str]:
    """The plan for these options, its settings as texts, and the default name of its directory.

    The name of a recipe of version 0.1.0 works, with a warning.
    """
    settings = [*([f"size={size}"] if size is not None else []), *settings]
    given = dict(text.partition("=")[::2] for text in settings)
    old = None if task in tasks() or method else of_old_name(task, given)
    if old is None:
        plan = Plan.of(task, method)
        sized = next((s.partition("=")[2] for s in settings if s.startswith("size=")), "")
        return plan, settings, "_".join(filter(None, [plan.task.name, sized, plan.method_in_name]))
    plan, changes = old
    now = " ".join(["train", plan.task.name, f"--method {plan.method.name}"])
    now += "".join(f" --set {knob}={value}" for knob, value in changes.items() if value is not None)
    click.echo(
        f"{task} is now: keras-meanflow {now}. Version 0.3.0 will remove the old name.", err=True
    )
    added = [f"{k}={v}" for k, v in changes.items() if v is not None and k not in given]
    return plan, [*added, *_renamed(plan, settings)], task


def _renamed(plan, settings):
    """The settings of a recipe of version 0.1.0, under the new names."""
    new = {"re_mean_flow": {"data": "pair_store"}, "re_mean_flow_guided": {"data": "pair_store"}}
    names = new.get(plan.method.name, {})
    if plan.task.name == "speech_digits":
        names = {**names, "exponent": "gap_exponent"}
    pairs = (text.partition("=") for text in settings)
    return [f"{names.get(name, name)}{equals}{value}" for name, equals, value in pairs]
