"""The command line: what it writes, what it says, and that a mistake is one line and no file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call, refusal
from PIL import Image

from keras_meanflow.cli import backend as cli_backend

BACKEND = os.environ["KERAS_BACKEND"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory that is to stay empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_tasks_are_listed_and_shown():
    output, code = call("tasks")
    assert code == 0
    for name in ("digits", "gaussian"):
        assert any(line.startswith(name) for line in output.splitlines())
    output, code = call("tasks", "show", "gaussian")
    assert code == 0 and "points=10000" in output and "train gaussian" in output


def test_listing_needs_no_backend():
    code = "import sys; from click.testing import CliRunner; from keras_meanflow.cli import main\n"
    code += (
        "out = CliRunner().invoke(main, ['tasks']); print(out.exit_code, 'keras' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["0", "False"], done.stderr


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (["train", "gausian"], "no task 'gausian'. Did you mean gaussian"),
        (["tasks", "show", "digit"], "Did you mean digits"),
        (["train", "gaussian", "--set", "stebs=3"], "no knob 'stebs'. Did you mean steps"),
        (["train", "gaussian", "--set", "steps=x"], "steps must be of type int. Received: 'x'"),
        (
            ["train", "gaussian", "--set", "batch_size=0"],
            "batch_size must be a whole number of at least 1",
        ),
        (["train", "gaussian", "--set", "averages=1.5"], "averages are different decays in"),
        (["train", "absent.py"], "There is no file absent.py"),
        (["sample", "runs/absent"], "There is no model 'runs/absent'"),
        (["export", "runs/absent", "out"], "There is no model 'runs/absent'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(arguments, rule, here):
    assert rule in refusal(*arguments)
    assert list(here.iterdir()) == []


def test_labels_that_the_model_does_not_know_are_refused_before_anything_is_written(own, here):
    assert "Labels must lie in 0..2" in refusal("train", own / "own.py", "--set", "highest=3")
    assert list(here.iterdir()) == []


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(here):
    output, code = call("train", "gaussian", "--dry-run", "--set", "width=16", "--set", "depth=1")
    assert code == 0 and f"gaussian by mean_flow on {BACKEND}, in runs/gaussian" in output
    # Two time embeddings, one hidden layer of [z, embed(t), embed(t - r)], the last layer.
    parameters = 2 * (256 * 16 + 16 + 16 * 16 + 16) + (34 * 16 + 16) + (16 * 2 + 2)
    assert f"{parameters:,} parameters" in output and "width=16" in output
    assert list(here.iterdir()) == []


def test_the_same_command_again_finds_the_run_finished(own):
    output, code = call("train", own / "own.py", "--run", own / "run", "-q")
    assert code == 0 and "Nothing was left to do" in output
    settings = json.loads((own / "run" / "settings.json").read_text())
    assert settings["task"].endswith("own.py:mine") and settings["knobs"]["steps"] == 6


@pytest.mark.any_backend
def test_a_bench_prints_rates_and_memory_and_writes_nothing(own, here):
    few = ("--steps", 1, "--rounds", 1, "--samples", 3)
    output, code = call("bench", own / "own.py", *few)
    assert code == 0, output
    for name, unit in (("training", "ms a step"), ("sampling", "ms an image"), ("memory", "GB")):
        line = next(line for line in output.splitlines() if line.startswith(name))
        assert unit in line and float(line.split()[1]) > 0.0
    assert ("not counted" in output) is (BACKEND == "tensorflow")
    assert ("whose peak is unknown" in output) is (BACKEND != "tensorflow")
    assert list(here.iterdir()) == []


@pytest.mark.skipif(BACKEND == "jax", reason="JAX divides the weights too")
def test_a_distribution_that_the_backend_lacks_is_refused(own):
    line = refusal("train", own / "own.py", "--devices", 1, "--distribution", "model=2")
    assert "Use JAX" in line
    assert "data or model=N" in refusal("train", own / "own.py", "--distribution", "all")


def test_other_knobs_for_an_existing_run_are_refused_by_name(own):
    line = refusal("train", own / "own.py", "--run", own / "run", "--set", "learning_rate=0.5")
    assert "learning_rate was 0.01, now 0.5" in line and "--run DIR" in line


def test_a_step_that_is_not_finite_ends_in_one_line(own, here):
    line = refusal("train", own / "own.py", "--set", "learning_rate=1e30", "--set", "steps=50")
    assert " at step " in line and "Lower the learning rate" in line


def test_samples_are_drawn_and_stored(own, here):
    arguments = ["--labels", "0,2", "-n", "5", "--steps", "2", "--out", "a/b.png", "--npz"]
    output, code = call("sample", own / "run", *arguments)
    assert code == 0 and "5 samples: a/b.png, a/b.npz" in output
    stored = np.load("a/b.npz")
    assert stored["y"].tolist() == [0, 2, 0, 2, 0] and stored["x"].shape == (5, 2)
    Image.open("a/b.png").verify()
    assert sorted(path.name for path in Path("a").iterdir()) == ["b.npz", "b.png"]


def test_seed_and_weights_are_what_samples_depend_on(own, here):
    def samples(*options):
        assert call("sample", own / "run", "--out", "x.png", "--npz", *options)[1] == 0
        return np.load("x.npz")["x"]

    first = samples("-n", "3", "--labels", "1")
    np.testing.assert_allclose(samples("-n", "9", "--labels", "1")[:3], first, atol=1e-6)
    others = ["--seed", "1"], ["--raw"], ["--steps", "2"], ["--sampler", "restart", "--shift", "2"]
    for other in others:
        assert np.abs(samples("-n", "3", "--labels", "1", *other) - first).max() > 1e-4


@pytest.mark.parametrize(
    "options, rule",
    [
        (["--labels", "7"], "--labels are numbers in 0..2, as in 3 or 0,1,2 or 0-9. Received: '7'"),
        (["--labels", "x"], "--labels are numbers in 0..2, as in 3 or 0,1,2 or 0-9. Received: 'x'"),
        (["--labels", "2-0"], "--labels are numbers"),
        (["--sampler", "fastflow", "--shift", "2"], "--shift is not for --sampler fastflow"),
    ],
)
def test_wrong_samples_are_refused_and_leave_no_file(options, rule, own, here):
    assert rule in refusal("sample", own / "run", "--out", "x.png", *options)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("option", ["--steps", "--shift"])
def test_numbers_out_of_range_are_refused_by_the_option(option, own, here):
    output, code = call("sample", own / "run", "--sampler", "restart", option, "0")
    assert code == 2 and f"Invalid value for '{option}'" in output
    assert list(here.iterdir()) == []


def test_a_run_is_exported(own, here):
    output, code = call("export", own / "run", "sampler.pt2" if BACKEND == "torch" else "sampler")
    assert code == 0 and "The sampler is in sampler" in output
    assert any(path.name.startswith("sampler") for path in here.iterdir())


def test_the_backend_is_asked_for_or_the_environments_or_recorded_or_installed(monkeypatch):
    installed = ["tensorflow", "torch"]
    monkeypatch.setattr(cli_backend, "is_installed", lambda name: name in installed)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert cli_backend.choose_backend() == "tensorflow"
    assert cli_backend.choose_backend(recorded="torch") == "torch"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert cli_backend.choose_backend(recorded="tensorflow") == "torch"
    assert cli_backend.choose_backend("tensorflow") == "tensorflow"
    with pytest.raises(ValueError, match=r"pip install 'keras_meanflow\[jax\]'"):
        cli_backend.choose_backend("jax")
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    with pytest.raises(ValueError, match="one of jax, tensorflow, torch. Received: 'numpy'"):
        cli_backend.choose_backend()
    monkeypatch.delenv("KERAS_BACKEND")
    installed.clear()
    with pytest.raises(ValueError, match="No backend is installed"):
        cli_backend.choose_backend()


def test_the_option_wins_over_the_environment_and_nothing_is_chattered(here):
    command = [sys.executable, "-m", "keras_meanflow.cli"]
    command += ["train", "gaussian", "--dry-run", "--backend", BACKEND]
    environment = {**os.environ, "KERAS_BACKEND": "numpy"}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith(f"gaussian by mean_flow on {BACKEND}")
