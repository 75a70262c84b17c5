"""A run survives damage, signals, full disks and a second process in its directory."""

import dataclasses
import inspect
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops

from keras_meanflow import cli, open_model
from keras_meanflow.data import ArraySource
from keras_meanflow.files.atomic import checkpoints, latest_checkpoint, write_atomically
from keras_meanflow.files.checkpoints import whole_checkpoint
from keras_meanflow.training.callbacks import Stopped
from keras_meanflow.training.callbacks.log import read_log
from keras_meanflow.training.callbacks.stopping import StopOnSignal
from keras_meanflow.training.plan import Plan
from keras_meanflow.training.run import describe, restore, train
from keras_meanflow.training.settings import read_settings

STEPS, GAUSSIAN = 12, Plan.of("gaussian")
KNOBS = dict(steps=STEPS, log_every=5, batch_size=8, width=8, depth=1, points=40)
KNOBS |= dict(sample_every=None, checkpoint_seconds=1e-3)


def gaussian(**knobs):
    return GAUSSIAN.training({**KNOBS, **knobs})


def run(training, folder, **knobs):
    return train(training, folder, describe(GAUSSIAN, {**KNOBS, **knobs}), verbose=0)


class Signalling:
    """Sends this process signals when its data is asked for the n-th time."""

    def __init__(self, source, number, takes):
        self.source, self.number, self.takes, self.taken = source, number, takes, 0

    def __len__(self):
        return len(self.source)

    def take(self, indices):
        self.taken += 1
        for _ in range(self.takes.count(self.taken)):
            os.kill(os.getpid(), self.number)
        return self.source.take(indices)


def weights_of(folder):
    flow_map = gaussian().flow_map
    assert restore(flow_map, folder) == STEPS
    variables = [*flow_map.variables, *flow_map.optimizer.variables]
    metrics = {id(v) for v in flow_map.metrics_variables}
    return [ops.convert_to_numpy(v) for v in variables if id(v) not in metrics]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(gaussian(), folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_left_out_and_the_run_ends_with_the_same_bits(
    damage, copy, finished
):
    older, newest = checkpoints(copy / "checkpoints")
    damage(newest)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged .* is used instead"):
        assert open_model(copy).flow_map.batches_done == int(older.stem[5:])
    with pytest.warns(UserWarning, match="is damaged"):
        assert run(gaussian(), copy) == STEPS - int(older.stem[5:])
    for ours, theirs in zip(weights_of(copy), weights_of(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (copy / "checkpoints" / f"damaged-{newest.name}").exists()


def test_without_a_whole_checkpoint_there_is_one_line(copy):
    for path in checkpoints(copy / "checkpoints"):
        flip(path)
    for use in (lambda: open_model(copy), lambda: run(gaussian(), copy)):
        with pytest.raises(ValueError, match="is damaged .* and there is no other checkpoint"):
            use()


def test_every_random_change_of_a_checkpoint_is_noticed_or_harmless(finished, tmp_path):
    whole = latest_checkpoint(finished / "checkpoints")
    path, draws = tmp_path / "step-00000001.keras", np.random.default_rng(0)
    for _ in range(100):
        content = bytearray(whole.read_bytes())
        content[draws.integers(len(content))] ^= 1 << draws.integers(8)
        path.write_bytes(content)
        try:
            assert whole_checkpoint(tmp_path) == path
        except ValueError:
            continue
        weights = open_model(path).flow_map.get_weights()
        for ours, theirs in zip(weights, open_model(whole).flow_map.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.fixture(autouse=True)
def heard():
    """SIGINT is not ignored, as a shell makes it for what runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_a_whole_step_and_the_run_ends_with_the_same_bits(
    number, finished, tmp_path
):
    before = signal.getsignal(number)
    training = gaussian(checkpoint_seconds=1e6)
    training = dataclasses.replace(training, data=Signalling(training.data, number, [8]))
    with pytest.raises(Stopped, match=r"Stopped by SIG.* Kept: .*\.keras\. The same") as stopped:
        run(training, tmp_path / "run")
    assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
    done = int(latest_checkpoint(tmp_path / "run" / "checkpoints").stem[5:])
    assert 0 < done < STEPS and f"after {done} steps" in str(stopped.value)
    assert run(gaussian(), tmp_path / "run") == STEPS - done
    for ours, theirs in zip(weights_of(tmp_path / "run"), weights_of(finished), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    rows = read_log(tmp_path / "run" / "log.csv")
    assert [row["step"] for row in rows] == [5, 10, 12]
    covered = {5: 5, 10: 5, 12: 2}
    covered[-(-done // 5) * 5 if done < 10 else 12] -= done % 5
    assert {row["step"]: row["row_steps"] for row in rows} == covered


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch):
    receive = StopOnSignal._receive

    def receive_and_send_again(self, number, frame):
        receive(self, number, frame)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(StopOnSignal, "_receive", receive_and_send_again)
    training = gaussian(checkpoint_seconds=1e6)
    data = Signalling(training.data, signal.SIGINT, [8])
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(dataclasses.replace(training, data=data), tmp_path / "run")
    assert not isinstance(stopped.value, Stopped)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is None


TASK = f"""
import dataclasses, os, signal
from keras_meanflow.recipe import task
from keras_meanflow.training import Plan

{inspect.getsource(Signalling)}

@task
def stopped():
    training = Plan.of("gaussian").training({KNOBS})
    return dataclasses.replace(training, data=Signalling(training.data, signal.SIGTERM, [6]))
"""


def test_the_command_line_ends_with_the_code_of_the_signal_and_one_line(tmp_path):
    (tmp_path / "stopped.py").write_text(TASK)
    arguments = ["train", str(tmp_path / "stopped.py"), "--run", str(tmp_path / "run"), "-q"]
    done = CliRunner().invoke(cli.main, arguments)
    assert done.exit_code == 128 + signal.SIGTERM
    assert done.output.splitlines()[-1].startswith("Stopped by SIGTERM after")


HOLD = """
import sys
from pathlib import Path
from keras_meanflow.training.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_trainings_in_one_directory_are_refused_and_a_dead_one_holds_nothing(copy):
    command = [sys.executable, "-c", HOLD, str(copy)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    other = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, **pipes)
    try:
        assert other.stdout.readline().strip() == "locked"
        with pytest.raises(ValueError, match="Another process trains in .* --run DIR"):
            run(gaussian(), copy)
    finally:
        other.kill()
        other.communicate()
    assert run(gaussian(), copy) == 0


@pytest.mark.parametrize(
    "content, rule",
    [
        ("{'a'", "it is not JSON"),
        ("\xff", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it holds a list"),
        ('{"knobs": {}}', "its entry 'backend' is None"),
        ('{"backend": "torch", "knobs": 3}', "its entry 'knobs' is 3"),
        ('{"backend": "torch", "knobs": {}, "task": {}}', "its entry 'task' is no text"),
    ],
)
def test_damaged_settings_are_named(content, rule, copy):
    (copy / "settings.json").write_text(content, "latin-1")
    for arguments in (["sample", copy], ["train", "gaussian", "--run", copy]):
        done = CliRunner().invoke(cli.main, list(map(str, arguments)))
        line = done.output.splitlines()[-1]
        assert done.exit_code == 1 and f"{copy / 'settings.json'} is damaged: {rule}" in line


def test_a_kill_while_the_settings_are_written_does_not_matter(tmp_path):
    (tmp_path / "tmp-1-settings.json").write_text("{")
    (tmp_path / ".lock").touch()
    assert read_settings(tmp_path) is None
    assert run(gaussian(steps=1), tmp_path) == 1


def test_a_run_that_failed_before_its_first_checkpoint_does_not_block_the_corrected_one(tmp_path):
    with pytest.raises(ArithmeticError):
        rates = dict(learning_rate=1e30, checkpoint_seconds=1e6)
        run(gaussian(**rates), tmp_path, **rates)
    assert latest_checkpoint(tmp_path / "checkpoints") is None
    assert run(gaussian(), tmp_path) == STEPS
    assert read_settings(tmp_path)["knobs"] == KNOBS


def test_other_data_of_the_same_shape_is_refused(copy):
    other = gaussian()
    x = other.data.x.copy()
    x[-1, -1] += 1e-6
    with pytest.raises(ValueError, match="was trained on other data: its fingerprint was"):
        run(dataclasses.replace(other, data=ArraySource(x)), copy)
    settings = json.loads((copy / "settings.json").read_text())
    del settings["data"]
    (copy / "settings.json").write_text(json.dumps(settings))
    assert run(dataclasses.replace(other, data=ArraySource(x)), copy) == 0


@pytest.fixture
def small_files():
    """Files end at 20,000 bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told_with_what_was_written_and_what_is_kept(copy, small_files):
    kept = latest_checkpoint(copy / "checkpoints")
    longer = gaussian(steps=STEPS + 5)
    settings = json.loads((copy / "settings.json").read_text())
    settings["knobs"] = {**KNOBS, "steps": STEPS + 5}
    (copy / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(OSError, match=r"could not be written: .*Kept: ") as error:
        run(longer, copy, steps=STEPS + 5)
    assert str(kept) in str(error.value)
    assert whole_checkpoint(copy / "checkpoints") == kept
    assert not list(copy.rglob("tmp-*"))


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(ValueError, match="is no regular file"):
            write_atomically(tmp_path / name, lambda path: path.write_text("x"))
    assert (tmp_path / "pipe").is_fifo()


def test_warnings_are_one_line_on_the_command_line(copy):
    newest = latest_checkpoint(copy / "checkpoints")
    flip(newest)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = CliRunner().invoke(cli.main, ["sample", str(copy), "-n", "4", "-q"])
    assert done.exit_code == 0, done.output
    assert [line for line in done.output.splitlines() if newest.name in line] == [
        line for line in done.output.splitlines() if line.startswith("Warning: ")
    ]
