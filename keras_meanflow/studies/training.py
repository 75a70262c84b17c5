"""Trainings of a study, one after the other: each resumable, each measured as it goes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_meanflow.files.atomic import write_text
from keras_meanflow.studies.tables import write_table
from keras_meanflow.training import run as runs
from keras_meanflow.training.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a study trains again and again: a plan with its knobs.

    Args:
        plan: a `Plan`, or what has its `training(knobs)`.
        knobs: its settings by name.
        command: for `settings.json`.

    Example:
        >>> Subject(plan=Plan.of("gaussian"), knobs={"width": 64})
    """

    plan: Plan
    knobs: dict = dataclasses.field(default_factory=dict)
    command: str | None = None

    def case(self, values, change=None, **knobs):
        """A `Case` of this plan with some knobs changed.

        Args:
            values: what distinguishes the case, columns of the table.
            change: what to do with its `Training` before it begins.
            **knobs: in the place of the subject's.
        """
        knobs = {**self.knobs, **knobs}

        def training():
            made = self.plan.training(knobs)
            if change is not None:
                change(made)
            return made

        settings = runs.describe(self.plan, {**knobs, "study": dict(values)}, self.command)
        return Case(values=dict(values), training=training, settings=settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One training of a study.

    Args:
        values: what distinguishes it, columns of the table.
        training: makes its `Training`, once its turn comes.
        settings: of its run.
    """

    values: dict
    training: Callable
    settings: dict

    @property
    def name(self):
        """The name of its run's directory."""
        parts = (f"{name}-{_text(value)}" for name, value in self.values.items())
        return "_".join(parts)


def _text(value):
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "-")


def train_cases(cases, folder, measure, *, at=(1.0,), verbose=0):
    """Train the cases and measure each; returns the rows of the table.

    The same call again goes on where it stopped: finished runs are not trained, measured steps
    not measured again. `folder/results.csv` is written after each case.

    Args:
        cases: `Case`s.
        folder: gets a run directory for each case.
        measure: from a FlowMap to a dict of numbers; it has a `name`.
        at: shares of each training's steps after which to measure.
        verbose: of `fit`.

    Returns:
        Dicts of the case's values, `at`, `step` and what was measured.

    Example:
        >>> train_cases([subject.case({"seed": 0}, seed=0)], "study", quality)
    """
    rows, folder = [], Path(folder)
    for case in cases:
        measured = _train_case(case, folder / case.name, measure, at, verbose)
        rows += [{**case.values, **row} for row in measured]
        write_table(folder / "results.csv", rows)
    return rows


def _train_case(case, run_dir, measure, at, verbose):
    runs.check_same(run_dir, case.settings)
    path = run_dir / f"{measure.name}.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if all(f"{share:g}" in known for share in at):
        return [known[f"{share:g}"] for share in sorted(at)]
    training = case.training()
    for share in sorted(at):
        steps = max(round(share * training.steps), 1)
        until = dataclasses.replace(training, steps=steps)
        runs.train(until, run_dir, case.settings, verbose=verbose)
        if f"{share:g}" not in known:
            _check_step(training.flow_map, steps, run_dir)
            known[f"{share:g}"] = {"at": share, "step": steps, **measure(training.flow_map)}
            write_text(path, json.dumps(known, indent=1))
    return [known[f"{share:g}"] for share in sorted(at)]


def _check_step(flow_map: Any, steps, run_dir):
    if flow_map.batches_done != steps:
        raise ValueError(
            f"A run is measured as it passes. Received: step {steps} of {run_dir}, which is at "
            f"step {flow_map.batches_done}. Leave it out, or begin in another folder."
        )
