"""A run: a directory in which one training happens, stops, goes on, and leaves its results."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_meanflow.backend import process_count, process_index, wait_for_processes
from keras_meanflow.callbacks import (
    Checkpoint,
    Curve,
    Evaluate,
    Log,
    SampleGrid,
    StopOnNonFinite,
    latest_checkpoint,
    write_atomically,
)
from keras_meanflow.codecs import Codec
from keras_meanflow.codecs.base import CODEC
from keras_meanflow.data import Batches, open_source
from keras_meanflow.evaluating import Evaluation
from keras_meanflow.files import write_text
from keras_meanflow.flow_map import FlowMap
from keras_meanflow.generation import as_condition
from keras_meanflow.presets import is_preset, load_codec
from keras_meanflow.provenance import provenance
from keras_meanflow.samplers import Sampler

SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What a recipe returns: a model, its data, and how long to train.

    Args:
        flow_map: a compiled `FlowMap`, with `horizon=steps` if its objective has schedules.
        data: a data source, arrays x or (x, y), or the path of an `.npz` file.
        batch_size: rows in a batch.
        steps: number of batches.
        sample_labels: what `FlowMap.generate` takes for the pictures: labels or a number.
        seed: of the order of the data and of the noise of the pictures.
        flip: mirror images from left to right with probability 1/2.
        log_every: steps in a logging period, Keras' epoch.
        sample_every: steps between two pictures of samples, or None for one at the end.
        sample_columns: columns of these pictures.
        sampler: draws them; default one jump, a flow model takes `Heun` or the like.
        reference: data to draw behind samples that are points.
        checkpoint_seconds: the most work that a crash may cost.
        codec: makes pixels of samples that are latents; default that of the data, if it has one.
        evaluation: what to measure as training goes, for `log.csv` and a file of reports.
        evaluate_every: steps between two evaluations, or None for one at the end.

    Raises:
        ValueError: for numbers below their least, or a model that is not compiled.
    """

    flow_map: FlowMap
    data: Any
    batch_size: int
    steps: int
    sample_labels: Any
    seed: int = 0
    flip: bool = False
    log_every: int = 100
    sample_every: int | None = 1000
    sample_columns: int | None = None
    sampler: Sampler | None = None
    reference: np.ndarray | None = None
    checkpoint_seconds: float = 60.0
    codec: Codec | None = None
    evaluation: Evaluation | None = None
    evaluate_every: int | None = 1000

    def __post_init__(self):
        for name in ("batch_size", "steps", "log_every", "sample_every", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1. Received: {value}.")
        if self.checkpoint_seconds <= 0.0:
            raise ValueError(
                f"checkpoint_seconds must exceed 0. Received: {self.checkpoint_seconds}."
            )
        if not self.flow_map.compiled:
            raise ValueError("A Training's flow_map must be compiled: flow_map.compile(...).")
        object.__setattr__(self, "data", open_source(self.data))
        if self.codec is None:
            object.__setattr__(self, "codec", getattr(self.data, "codec", None))
        if self.codec and self.evaluation and self.evaluation.decode is None:
            decoded = dataclasses.replace(self.evaluation, decode=self.codec.decode)
            object.__setattr__(self, "evaluation", decoded)

    def with_objective(self, objective, *, network=None, **changes):
        """The same training with another kind of objective, in a new FlowMap.

        Args:
            objective: an `Objective`.
            network: another network; default the same.
            changes: other fields of the Training to change, such as `sampler`.

        Example:
            >>> training = digits(**knobs).with_objective(FlowMatching(), sampler=Heun(steps=25))
        """
        old = self.flow_map
        flow_map = FlowMap(
            network or old.network,
            objective,
            averages=old.averages,
            horizon=old.fixed_horizon,
            seed=old.seed,
        )
        flow_map.compile_from_config(old.get_compile_config())
        return dataclasses.replace(self, flow_map=flow_map, **changes)

    def batches(self, first_step=0):
        """The stream of batches from a step on: this process' part of each."""
        return Batches(
            self.data,
            self.batch_size,
            self.seed,
            first_step=first_step,
            flip=self.flip,
            part=(process_index(), process_count()),
        )

    def check(self):
        """Raise a ValueError now for what would fail during training."""
        network = self.flow_map.network
        self.flow_map.objective.check_batch(self.batch_size // process_count())
        self.flow_map.check_data(*self.batches()[0])
        if self.codec is not None:
            self.codec.check_latents(network.data_shape)
            if hasattr(self.data, "check_codec"):
                self.data.check_codec(self.codec)
        if self.evaluation is not None:
            self.evaluation.check(self.flow_map)
        if not network.conditional:
            return
        network.check_condition(as_condition(self.sample_labels))
        if network.num_classes is None:
            return
        classes = getattr(self.data, "num_classes", None)
        if classes and classes > network.num_classes:
            raise ValueError(
                f"Labels must lie in 0..{network.num_classes - 1}. The data has {classes - 1}."
            )


def describe(recipe=None, knobs=None, command=None):
    """The settings of a run, for `settings.json`: what was asked for, and of which versions."""
    return {
        "recipe": recipe,
        "knobs": json.loads(json.dumps(knobs or {})),  # tuples become lists here too
        "command": command,
        **provenance(),
    }


def read_settings(run_dir):
    """The settings of a run; None if there is no directory, or an empty one.

    Raises:
        ValueError: for a directory of anything else.
    """
    run_dir = Path(run_dir)
    if (run_dir / SETTINGS).is_file():
        return json.loads((run_dir / SETTINGS).read_text(encoding="utf-8"))
    if run_dir.is_file() or (run_dir.is_dir() and any(run_dir.iterdir())):
        raise ValueError(f"{run_dir} is no run: it has no {SETTINGS}. Name another with --run DIR.")
    return None


def check_same(run_dir, settings):
    """Raise a ValueError if a directory holds a run of another recipe, knobs or backend."""
    existing = read_settings(run_dir)
    if existing is None:
        return
    old = {"recipe": existing["recipe"], "backend": existing["backend"], **existing["knobs"]}
    new = {"recipe": settings["recipe"], "backend": settings["backend"], **settings["knobs"]}
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        changes = ", ".join(f"{n} was {old.get(n)!r}, now {new.get(n)!r}" for n in names)
        raise ValueError(
            f"{run_dir} holds a run with other settings: {changes}. Give the old ones to go on "
            "with it, or name another directory with --run DIR."
        )


def _check_codec(run_dir, codec):
    """Raise a ValueError if a run was trained on latents of another codec or normalisation."""
    kept = load_codec(run_dir)
    if kept is not None and (codec is None or kept.describe() != codec.describe()):
        found = "no codec" if codec is None else codec.describe()
        raise ValueError(f"{run_dir} is of latents by {kept.describe()}. Received {found}.")


def train(training, run_dir, settings=None, *, verbose="auto"):
    """Train in a directory, from its newest checkpoint on; returns the number of steps done now.

    The directory gets `settings.json`, `checkpoints/`, `log.csv`, `curve.png`, `samples/` and
    `samples.png`. Stopped at any point and started again, it ends with the same weights, bit for
    bit, as one that was never stopped. Of several processes the first one writes.

    Args:
        training: a `Training`, as its recipe has made it.
        run_dir: the directory; made once all checks have passed.
        settings: from `describe`.
        verbose: of `keras.Model.fit`.

    Raises:
        ValueError: for data or labels that do not suit the model, or a directory that holds
            another run.
        NonFiniteError: at the first step that is not finite.

    Example:
        >>> train(find("digits").load()(steps=200), "runs/short")
        200
    """
    settings = settings or describe()
    run_dir, flow_map = Path(run_dir), training.flow_map
    check_same(run_dir, settings)
    training.check()
    _check_codec(run_dir, training.codec)
    first = process_index() == 0
    wait_for_processes()  # all have looked at the directory before it changes
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
    """The directory, with the settings and the codec in it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / SETTINGS).exists():
        text = json.dumps(settings, indent=2) + "\n"
        write_text(run_dir / SETTINGS, text)
    if codec is not None and not (run_dir / CODEC).exists():
        write_atomically(run_dir / CODEC, codec.save)


def restore(flow_map, run_dir):
    """Bring weights, averages, optimizer state and step from the newest checkpoint, if any.

    Returns:
        The step.
    """
    newest = latest_checkpoint(Path(run_dir) / "checkpoints")
    if newest is not None:
        flow_map.optimizer.build(flow_map.trainable_variables)
        flow_map.load_weights(newest)
    return flow_map.batches_done


def _fits(step, steps, log_every):
    """(first epoch, epochs, steps in each) of the calls of `fit` from `step` to `steps`.

    Epochs end at multiples of `log_every` whatever step a run goes on from.
    """
    while step < steps:
        into = step % log_every
        whole = 0 if into else (steps - step) // log_every
        epochs, length = (whole, log_every) if whole else (1, min(log_every - into, steps - step))
        yield step // log_every, epochs, length
        step += epochs * length


def _callbacks(training, run_dir):
    """Checkpoints come last: what is saved at the end has its pictures."""
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


def load(run_dir):
    """The FlowMap of a run's newest checkpoint, ready to generate and to export.

    Raises:
        ValueError: for a directory that is no run, or has no checkpoint yet.

    Example:
        >>> load("runs/digits").generate(np.arange(10))
    """
    if read_settings(run_dir) is None:
        raise ValueError(f"There is no run in {run_dir}. Train one: keras-meanflow train RECIPE.")
    newest = latest_checkpoint(Path(run_dir) / "checkpoints")
    if newest is None:
        raise ValueError(f"{run_dir} has no checkpoint yet. Train it for longer.")
    return keras.saving.load_model(newest, compile=False)


def trained_network(run):
    """The network of a run's newest checkpoint or of a preset, with the weights that generate.

    Raises:
        ValueError: for a directory that is neither, or has no checkpoint yet.

    Example:
        >>> teacher = trained_network("runs/digits_flow")
    """
    flow_map = FlowMap.from_preset(run) if is_preset(str(run)) else load(run)
    return flow_map.copied_network(flow_map.average)
