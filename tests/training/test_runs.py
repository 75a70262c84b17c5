"""Runs: what stops and goes on ends like what was never stopped; nothing is mixed up."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow import open_model
from keras_meanflow.data import ArraySource
from keras_meanflow.files.atomic import latest_checkpoint
from keras_meanflow.training.callbacks.log import read_log
from keras_meanflow.training.callbacks.non_finite import NonFiniteError
from keras_meanflow.training.plan import Plan
from keras_meanflow.training.run import _fits, describe, restore, train

STEPS, GAUSSIAN = 60, Plan.of("gaussian")
KNOBS = dict(steps=STEPS, log_every=25, batch_size=16, width=16, depth=1, points=100)
KNOBS |= dict(sample_every=20, checkpoint_seconds=0.1)

# Dies when its data is asked for the n-th time: n by the number of deaths so far.
KILLED = f"""
import dataclasses, os, signal, time
from pathlib import Path
from keras_meanflow.recipe import task
from keras_meanflow.training import Plan

KNOBS = {KNOBS}

class Deadly:
    def __init__(self, source, deaths, takes=(3, 25, 30)):
        self.source, self.deaths, self.taken = source, Path(deaths), 0
        died = len(list(self.deaths.iterdir()))
        self.last = takes[died] if died < len(takes) else None

    def __len__(self):
        return len(self.source)

    def take(self, indices):
        time.sleep(0.03)
        self.taken += 1
        if self.taken == self.last:
            (self.deaths / str(len(list(self.deaths.iterdir())))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.take(indices)

@task
def killed(*, deaths: str):
    training = Plan.of("gaussian").training(KNOBS)
    return dataclasses.replace(training, data=Deadly(training.data, deaths))
"""


def gaussian(**knobs):
    return GAUSSIAN.training({**KNOBS, **knobs})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing has stopped."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    assert train(gaussian(), folder, describe(GAUSSIAN, KNOBS), verbose=0) == STEPS
    return folder


def final_state(run_dir):
    """Raw and averaged weights, optimizer state and step of a run's newest checkpoint."""
    flow_map = gaussian().flow_map
    assert restore(flow_map, run_dir) == STEPS
    variables = [*flow_map.variables, *flow_map.optimizer.variables]
    metrics = {id(v) for v in flow_map.metrics_variables}
    return [ops.convert_to_numpy(v) for v in variables if id(v) not in metrics]


def test_killed_at_any_step_and_started_again_a_run_ends_with_the_same_bits(finished, tmp_path):
    recipe, deaths, run_dir = tmp_path / "killed.py", tmp_path / "deaths", tmp_path / "run"
    recipe.write_text(KILLED)
    deaths.mkdir()
    command = [sys.executable, "-c", "from keras_meanflow.cli import main; main()", "train"]
    command += [str(recipe), "--set", f"deaths={deaths}", "--run", str(run_dir), "--quiet"]
    steps, codes = [], []
    while not codes or codes[-1] == -signal.SIGKILL:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        codes.append(done.returncode)
        newest = latest_checkpoint(run_dir / "checkpoints")
        steps.append(int(newest.stem[5:]) if newest else 0)
    assert codes == [-signal.SIGKILL] * 3 + [0], done.stderr
    assert steps[0] <= 3 and 0 < steps[1] < steps[2] < steps[3] == STEPS
    for ours, theirs in zip(final_state(run_dir), final_state(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [row["step"] for row in read_log(run_dir / "log.csv")] == [25, 50, 60]
    assert (run_dir / "samples.png").read_bytes() == (finished / "samples.png").read_bytes()


def test_a_run_directory_holds_what_was_asked_for_and_what_came_of_it(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert {"settings.json", "log.csv", "curve.png", "samples.png"} <= names
    assert {f"samples/step-000000{step}.png" for step in (20, 40, 60)} <= names
    assert not any("tmp-" in name for name in names)
    settings = json.loads((finished / "settings.json").read_text())
    assert [settings[k] for k in ("task", "method", "knobs")] == ["gaussian", "mean_flow", KNOBS]
    assert settings["backend"] == os.environ["KERAS_BACKEND"]
    assert settings["versions"]["keras"] == keras.__version__
    if (Path(__file__).parents[2] / ".git").exists():
        assert len(settings["git_commit"].removesuffix("-dirty")) == 40


def test_a_finished_run_has_nothing_left_to_do(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train(gaussian(), finished, describe(GAUSSIAN, KNOBS), verbose=0) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_loaded_run_generates_what_the_trained_model_does(finished):
    flow_map = gaussian().flow_map
    restore(flow_map, finished)
    samples = open_model(finished).flow_map.generate(8, seed=3)
    np.testing.assert_allclose(samples, flow_map.generate(8, seed=3), atol=1e-6)


@pytest.mark.parametrize(
    "change, rule",
    [
        (dict(knobs={**KNOBS, "width": 32}), "width was 16, now 32. Give the old ones"),
        (dict(task="digits"), "task was 'gaussian', now 'digits'"),
        (dict(backend="other"), "now 'other'"),
    ],
)
def test_other_settings_in_the_same_directory_are_refused_by_name(finished, change, rule):
    settings = {**describe(GAUSSIAN, KNOBS), **change}
    with pytest.raises(ValueError, match=rule):
        train(gaussian(), finished, settings, verbose=0)


def test_a_directory_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="is no run: it has no settings.json"):
        train(gaussian(), tmp_path, verbose=0)
    with pytest.raises(ValueError, match="There is no model"):
        open_model(tmp_path / "absent")


@pytest.mark.parametrize(
    "change, rule",
    [
        (dict(data=ArraySource(np.zeros((9, 3), "float32"))), "must have the network's shape"),
        (dict(data=ArraySource(np.zeros((9, 2), "float32"), np.arange(9))), "takes no condition"),
        (dict(batch_size=1, fraction=0.75), "A batch needs a row with r < t"),
    ],
)
def test_data_that_does_not_suit_the_model_is_refused_and_nothing_written(change, rule, tmp_path):
    fraction = change.pop("fraction", 0.5)
    training = gaussian(fraction_r_equals_t=fraction)
    with pytest.raises(ValueError, match=rule):
        train(_replace(training, **change), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def _replace(training, **changes):
    import dataclasses

    return dataclasses.replace(training, **changes)


@pytest.mark.parametrize("knob", ["steps", "batch_size", "log_every", "checkpoint_seconds"])
def test_numbers_below_their_least_are_refused(knob):
    with pytest.raises(ValueError, match=f"{knob} must .* Received: 0"):
        gaussian(**{knob: 0})


def test_a_run_that_meets_a_nan_stops_with_one_clear_line(tmp_path):
    with pytest.raises(NonFiniteError, match=r"(is nan|is inf) at step \d+\. (Kept|There is no)"):
        train(gaussian(learning_rate=1e30), tmp_path, verbose=0)
    newest = latest_checkpoint(tmp_path / "checkpoints")
    if newest is not None:
        weights = keras.saving.load_model(newest).weights
        assert all(np.isfinite(ops.convert_to_numpy(weight)).all() for weight in weights)


@pytest.mark.parametrize("start", [0, 1, 10, 13, 30, 34, 35])
def test_epochs_end_at_multiples_of_the_logging_period_wherever_a_run_goes_on(start):
    """Steps 0 to 35 in periods of 10: every step once, each in its own period."""
    steps, done = 35, start
    for epoch, epochs, length in _fits(start, steps, 10):
        for number in range(epochs):
            assert done // 10 == epoch + number
            done += length
            assert done % 10 == 0 or done == steps
    assert done == steps
    assert len(list(_fits(start, steps, 10))) <= 3
