"""A run: the directory of one training, which can stop and resume, and holds the results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_meanflow import __version__
from keras_meanflow.backend import process_index, wait_for_processes
from keras_meanflow.codecs.base import CODEC
from keras_meanflow.data.fingerprints import fingerprint
from keras_meanflow.evaluation.callback import Evaluate
from keras_meanflow.files.atomic import latest_checkpoint, write_atomically
from keras_meanflow.files.checkpoints import whole_checkpoint
from keras_meanflow.files.provenance import provenance
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.flow_map.opening import check_same_model
from keras_meanflow.flow_map.presets import load_codec
from keras_meanflow.training.callbacks.checkpoint import Checkpoint
from keras_meanflow.training.callbacks.log import Curve, Log
from keras_meanflow.training.callbacks.non_finite import StopOnNonFinite, kept
from keras_meanflow.training.callbacks.progress import ShowProgress
from keras_meanflow.training.callbacks.samples import SampleGrid
from keras_meanflow.training.callbacks.stopping import StopOnSignal
from keras_meanflow.training.lengthening import is_longer, stretch, write_length
from keras_meanflow.training.lock import locked
from keras_meanflow.training.old_names import of_old_name
from keras_meanflow.training.plan import Plan
from keras_meanflow.training.settings import SETTINGS, read_settings, write_settings
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


def plan_of(settings: dict[str, Any]) -> tuple[Plan, dict] | None:
    """The `Plan` and the knobs in a run's settings; None for a training without a name.

    Settings of version 0.1.0 name a recipe instead; see `of_old_name`.
    """
    knobs = settings["knobs"]
    if settings.get("task"):
        return Plan.of(settings["task"], settings["method"]), knobs
    name = settings.get("recipe")
    return (of_old_name(name, knobs) or (Plan.of(name), knobs)) if name else None


def check_same(
    run_dir: str | Path, settings: dict[str, Any], *, may_lengthen: bool = False
) -> None:
    """Raise a ValueError if the directory holds a run with another plan, knobs or backend.

    A run without a checkpoint has nothing to resume, so other settings may replace its settings.

    Args:
        run_dir: the directory.
        settings: from `describe`.
        may_lengthen: whether the knob `steps` may be larger than the run's.
    """
    existing = read_settings(run_dir)
    if existing is None or not _begun(run_dir):
        return
    old, new = _compared(existing, settings), _compared(settings, settings)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if may_lengthen and is_longer(existing, settings):
        names.remove("steps")
    if names:
        changes = ", ".join(f"{n} was {old.get(n)!r}, now {new.get(n)!r}" for n in names)
        raise ValueError(
            f"{run_dir} holds a run with other settings: {changes}. Give the old ones to "
            "resume it, or name another directory with --run DIR."
        )


def _begun(run_dir):
    """Whether a run has a checkpoint."""
    return latest_checkpoint(Path(run_dir) / "checkpoints") is not None


def _check_data(run_dir, new):
    """Raise a ValueError for other data; a source of an unknown kind has no fingerprint."""
    old = (read_settings(run_dir) or {}).get("data") if _begun(run_dir) else None
    if None not in (old, new) and old != new:
        raise ValueError(
            f"{run_dir} was trained on other data: its fingerprint was {old}, now {new}. Give the "
            f"old data, or name another directory with --run DIR. To go on with the new data, "
            f"remove the entry 'data' from {Path(run_dir) / SETTINGS}."
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
    old = load_codec(run_dir) if read_settings(run_dir) and _begun(run_dir) else None
    if old is not None and (codec is None or old.describe() != codec.describe()):
        found = "no codec" if codec is None else codec.describe()
        raise ValueError(
            f"{run_dir} was trained on latents of {old.describe()}. Received: {found}."
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

    More steps than before make the run longer; see `stretch`, whose sentences are printed.

    Args:
        training: a new `Training`.
        run_dir: the directory; it is created after all checks have passed.
        settings: from `describe`.
        verbose: 0 shows nothing; any other value shows a bar in a terminal, and elsewhere a line
            for each row of the log.

    SIGTERM and SIGINT stop it after a whole step, which is saved; the second one stops at once.

    Raises:
        ValueError: for data or labels that do not fit the model, or for a directory that holds
            another run, or in which another process trains.
        NonFiniteError: at the first step that is not finite.
        Stopped: a KeyboardInterrupt, at a signal.
        OSError: if a file cannot be written; the message names it, and what is kept.

    Example:
        >>> train(Plan.of("digits").training({"steps": 200}), "runs/short")
        200
    """
    settings = {**(settings or describe()), "data": fingerprint(training.data)}
    run_dir, flow_map = Path(run_dir), training.flow_map
    _check(training, run_dir, settings)
    training.check()
    first = process_index() == 0
    wait_for_processes()  # all processes have read the directory before it changes
    with locked(run_dir) if first else contextlib.nullcontext():
        if first:
            _check(training, run_dir, settings)  # another process may have trained meanwhile
        start = restore(flow_map, run_dir)
        said = stretch(flow_map, run_dir)
        if first:
            longer = _make(run_dir, settings, training.codec, start)
            if (longer or said) and verbose:
                print(f"{run_dir} goes on from step {start} to {training.steps}. {said}".rstrip())
        _fit(training, run_dir, start, verbose)
    return max(training.steps - start, 0)


def _check(training, run_dir, settings):
    check_same(run_dir, settings, may_lengthen=True)
    _check_codec(run_dir, training.codec)
    _check_data(run_dir, settings["data"])


def _make(run_dir, settings, codec, step):
    """Write the settings and the codec, or the new length of a run; whether it became longer."""
    begun = _begun(run_dir)
    longer = begun and write_length(run_dir, settings, step)
    if not begun or not (run_dir / SETTINGS).exists():
        write_settings(run_dir, settings)
    if codec is not None and not (begun and (run_dir / CODEC).exists()):
        write_atomically(run_dir / CODEC, codec.save)
    return longer


def _fit(training, run_dir, start, verbose):
    """Train from step `start` to the end."""
    first = process_index() == 0
    checkpoint = Checkpoint(run_dir / "checkpoints", seconds=training.checkpoint_seconds)
    shown = first and verbose and start < training.steps
    progress = ShowProgress(training.steps) if shown else contextlib.nullcontext()
    with StopOnSignal(checkpoint) as stop, progress, _naming_what_is_kept(checkpoint.folder):
        callbacks = [StopOnNonFinite(checkpoint.folder)]
        if first:  # `Checkpoint` comes last, so that the pictures of a saved step exist
            callbacks += _results(training, run_dir) + [progress] * shown + [checkpoint, stop]
        _fit_all(training, start, callbacks)


def _fit_all(training, start, callbacks):
    """Call `fit` until the training is complete."""
    flow_map = training.flow_map
    for epoch, epochs, steps in _fits(start, training.steps, training.log_every):
        flow_map.fit(
            training.batches(first_step=flow_map.batches_done),
            initial_epoch=epoch,
            epochs=epoch + epochs,
            steps_per_epoch=steps,
            shuffle=False,
            callbacks=callbacks,
            verbose=0,
        )


@contextlib.contextmanager
def _naming_what_is_kept(folder: Path) -> Iterator[None]:
    """Add the newest checkpoint to the message of an error in writing, such as a full disk."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{error}. {kept(folder)}The same command goes on from there.") from error


def restore(flow_map: FlowMap, run_dir: str | Path) -> int:
    """Load weights, averages, optimizer state and step from the newest whole checkpoint, if any.

    Returns:
        The step.

    Raises:
        ValueError: for checkpoints that are all damaged, or one of another model.
    """
    newest = whole_checkpoint(Path(run_dir) / "checkpoints")
    if newest is not None:
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


def _results(training, run_dir):
    """The callbacks that write results."""
    log = run_dir / "log.csv"
    evaluate = {"every_steps": training.evaluate_every, "last_step": training.steps}
    return [
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
    ]
