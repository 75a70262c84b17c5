"""The trainings of a study, one after the other. Each is resumable and measured on its way."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_meanflow.files.atomic import write_text
from keras_meanflow.files.reading import read_json
from keras_meanflow.studies.tables import write_table
from keras_meanflow.training import run as runs
from keras_meanflow.training.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """What a study trains repeatedly: a plan and its knobs.

    Args:
        plan: a `Plan`, or another object with the method `training(knobs)`.
        knobs: values of its knobs, by name.
        command: the command line, recorded in `settings.json`.

    Example:
        >>> Subject(plan=Plan.of("gaussian"), knobs={"width": 64})
    """

    plan: Plan
    knobs: dict = dataclasses.field(default_factory=dict)
    command: str | None = None

    def case(self, values: Mapping[str, Any], change: Callable | None = None, **knobs: Any) -> Case:
        """A `Case` of this plan with some knobs changed.

        Args:
            values: the values that identify the case; columns of the table.
            change: called with the `Training` before it begins.
            **knobs: these replace the subject's knobs.
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
        values: the values that identify the case; columns of the table.
        training: makes the `Training`; called when the case is trained.
        settings: the settings of its run.
    """

    values: dict
    training: Callable
    settings: dict

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        parts = (f"{name}-{_text(value)}" for name, value in self.values.items())
        return "_".join(parts)


def _text(value):
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "-")


def train_cases(
    cases: Sequence[Case],
    folder: str | Path,
    measure: Callable,
    *,
    at: Sequence[float] = (1.0,),
    verbose: int = 0,
) -> list[dict]:
    """Train the cases and measure each; returns the rows of the table.

    The same call again continues where it stopped: it repeats neither finished runs nor
    measurements. `folder/results.csv` is written after each case.

    Args:
        cases: the `Case`s.
        folder: where the run directories of the cases are written.
        measure: maps a FlowMap to a dict of numbers; it has the attribute `name`.
        at: the shares of the steps after which to measure.
        verbose: see `keras.Model.fit`.

    Returns:
        Dicts of the case's values, `at`, `step` and the measured numbers.

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
    known = read_json(path) if path.is_file() else {}
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
            f"A run cannot be measured at an earlier step. Received: step {steps} of {run_dir}, "
            f"which is at step {flow_map.batches_done}. Leave this share out, or use another "
            "folder."
        )
