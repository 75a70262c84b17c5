"""A run: the directory of one training, which can stop and resume, and holds the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from keras_meanflow import __version__
from keras_meanflow.backend import process_index, wait_for_processes
from keras_meanflow.codecs.base import CODEC
from keras_meanflow.evaluation.callback import Evaluate
from keras_meanflow.files.atomic import latest_checkpoint, write_atomically, write_text
from keras_meanflow.files.provenance import provenance
from keras_meanflow.files.reading import check_fields, check_zip, read_json
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.flow_map.opening import check_same_model
from keras_meanflow.flow_map.places import SETTINGS
from keras_meanflow.flow_map.presets import load_codec
from keras_meanflow.training.callbacks.checkpoint import Checkpoint
from keras_meanflow.training.callbacks.log import Curve, Log
from keras_meanflow.training.callbacks.non_finite import StopOnNonFinite
from keras_meanflow.training.callbacks.samples import SampleGrid
from keras_meanflow.training.old_names import of_old_name
from keras_meanflow.training.plan import Plan
from keras_meanflow.training.training import Training


def describe(
    plan: Plan | None = None, knobs: dict | None = None, command: str | None = None
) -> dict[str, Any]:
    """The settings of a run, for `settings.json`: the plan, its knobs, and the versions in use.

    Args:
        plan: the `Plan`, or None for a training without a name.
        knobs: the values of all its knobs, by name.
        command: the command line.
    """
    return {
        "task": plan and plan.task.address,
        "method": plan and plan.method and plan.method.address,
        "knobs": json.loads(json.dumps(knobs or {})),  # tuples become lists here too
        "command": command,
        **provenance(),
    }


def read_settings(run_dir: str | Path) -> dict[str, Any] | None:
    """The settings of a run; None if the directory does not exist or is empty.

    Raises:
        ValueError: for a directory with other files and no settings, or damaged settings.
    """
    run_dir = Path(run_dir)
    if (run_dir / SETTINGS).is_file():
        settings = read_json(run_dir / SETTINGS)
        check_fields(run_dir / SETTINGS, settings, {"knobs": dict, "backend": str})
        return settings
    if run_dir.is_file() or (run_dir.is_dir() and any(run_dir.iterdir())):
        raise ValueError(f"{run_dir} is no run: it has no {SETTINGS}. Name another with --run DIR.")
    return None


def plan_of(settings: dict[str, Any]) -> tuple[Plan, dict] | None:
    """The `Plan` and the knobs in a run's settings; None for a training without a name.

    Settings of version 0.1.0 name a recipe instead; see `of_old_name`.
    """
    knobs = settings["knobs"]
    if settings.get("task"):
        return Plan.of(settings["task"], settings["method"]), knobs
    name = settings.get("recipe")
    return (of_old_name(name, knobs) or (Plan.of(name), knobs)) if name else None


def check_same(run_dir: str | Path, settings: dict[str, Any]) -> None:
    """Raise a ValueError if the directory holds a run with another plan, knobs or backend."""
    existing = read_settings(run_dir)
    if existing is None:
        return
    old, new = _compared(existing, settings), _compared(settings, settings)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        changes = ", ".join(f"{n} was {old.get(n)!r}, now {new.get(n)!r}" for n in names)
        raise ValueError(
            f"{run_dir} holds a run with other settings: {changes}. Give the old ones to "
            "resume it, or name another directory with --run DIR."
        )


def _compared(settings, new):
    """What must be equal to resume a run; knobs that are new since 0.1.0 are not compared."""
    names = {name: settings.get(name) for name in ("task", "method")}
    knobs = settings["knobs"]
    if settings.get("recipe") and (found := plan_of(settings)):
        plan, knobs = found
        names = {"task": plan.task.address, "method": plan.method and plan.method.address}
        knobs = {**new["knobs"], **json.loads(json.dumps(knobs))}
    return {**names, "backend": settings["backend"], **knobs}


def _check_codec(run_dir, codec):
    """Raise a ValueError if a run was trained on latents of another codec or normalisation."""
    kept = load_codec(run_dir) if read_settings(run_dir) else None
    if kept is not None and (codec is None or kept.describe() != codec.describe()):
        found = "no codec" if codec is None else codec.describe()
        raise ValueError(
            f"{run_dir} was trained on latents of {kept.describe()}. Received: {found}."
        )


def train(
    training: Training,
    run_dir: str | Path,
    settings: dict[str, Any] | None = None,
    *,
    verbose: int | str = "auto",
) -> int:
    """Train in a directory, from its newest checkpoint on; returns the number of steps trained now.

    The directory gets `settings.json`, `checkpoints/`, `log.csv`, `curve.png`, `samples/` and
    `samples.png`. A run that was stopped and resumed ends with the same weights, bit for bit, as
    one that was never stopped. If there are several processes, only the first one writes.

    Args:
        training: a new `Training`.
        run_dir: the directory; it is created after all checks have passed.
        settings: from `describe`.
        verbose: see `keras.Model.fit`.

    Raises:
        ValueError: for data or labels that do not fit the model, or for a directory that holds
            another run.
        NonFiniteError: at the first step that is not finite.

    Example:
        >>> train(Plan.of("digits").training({"steps": 200}), "runs/short")
        200
    """
    settings = settings or describe()
    run_dir, flow_map = Path(run_dir), training.flow_map
    check_same(run_dir, settings)
    training.check()
    _check_codec(run_dir, training.codec)
    first = process_index() == 0
    wait_for_processes()  # all processes have read the directory before it changes
    if first:
        _make(run_dir, settings, training.codec)
    start = restore(flow_map, run_dir)
    callbacks = _callbacks(training, run_dir) if first else [StopOnNonFinite()]
    for epoch, epochs, steps in _fits(start, training.steps, training.log_every):
        flow_map.fit(
            training.batches(first_step=flow_map.batches_done),
            initial_epoch=epoch,
            epochs=epoch + epochs,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=callbacks,
            verbose=verbose if first else 0,
        )
    return max(training.steps - start, 0)


def _make(run_dir, settings, codec):
    """Create the directory, and write the settings and the codec."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / SETTINGS).exists():
        text = json.dumps(settings, indent=2) + "\n"
        write_text(run_dir / SETTINGS, text)
    if codec is not None and not (run_dir / CODEC).exists():
        write_atomically(run_dir / CODEC, codec.save)


def restore(flow_map: FlowMap, run_dir: str | Path) -> int:
    """Load weights, averages, optimizer state and step from the newest checkpoint, if any.

    Returns:
        The step.

    Raises:
        ValueError: for a checkpoint that is damaged, or of another model.
    """
    newest = latest_checkpoint(Path(run_dir) / "checkpoints")
    if newest is not None:
        check_zip(newest)
        if _is_of_this_version(run_dir):
            check_same_model(flow_map, newest)
        flow_map.optimizer.build(flow_map.trainable_variables)
        flow_map.load_weights(newest)
    return flow_map.batches_done


def _is_of_this_version(run_dir):
    """Whether this version began a run: another one may write the same model differently."""
    settings = read_settings(run_dir) or describe()
    return settings.get("versions", {}).get("keras_meanflow") == __version__


def _fits(step, steps, log_every):
    """(first epoch, epochs, steps in each) of the calls of `fit` from `step` to `steps`.

    Epochs end at multiples of `log_every`, also when a run resumes between two of them.
    """
    while step < steps:
        into = step % log_every
        whole = 0 if into else (steps - step) // log_every
        epochs, length = (whole, log_every) if whole else (1, min(log_every - into, steps - step))
        yield step // log_every, epochs, length
        step += epochs * length


def _callbacks(training, run_dir):
    """The callbacks; `Checkpoint` is last, so that the pictures of a saved step exist."""
    checkpoints, log = run_dir / "checkpoints", run_dir / "log.csv"
    evaluate = {"every_steps": training.evaluate_every, "last_step": training.steps}
    return [
        StopOnNonFinite(checkpoints),
        *([Evaluate(run_dir, training.evaluation, **evaluate)] if training.evaluation else []),
        Log(log),
        Curve(log, run_dir / "curve.png"),
        SampleGrid(
            run_dir,
            training.sample_labels,
            every_steps=training.sample_every,
            seed=training.seed,
            columns=training.sample_columns,
            sampler=training.sampler,
            reference=training.reference,
            decode=training.codec and training.codec.picture,
        ),
        Checkpoint(checkpoints, seconds=training.checkpoint_seconds),
    ]
