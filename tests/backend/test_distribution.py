"""Several devices take the steps that one takes: draws belong to rows of the global batch."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from keras_meanflow.backend import BACKEND
from keras_meanflow.training.callbacks.log import read_log

ROOT = Path(__file__).resolve().parents[2]
ON_TORCH = pytest.mark.skipif(BACKEND != "torch", reason="processes of PyTorch's DDP")
ON_JAX = pytest.mark.skipif(BACKEND != "jax", reason="JAX's meshes of devices")
ON_TENSORFLOW = pytest.mark.skipif(BACKEND != "tensorflow", reason="MirroredStrategy")


def _environments(processes):
    """What each process of a group finds in its environment."""
    common = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": BACKEND}
    common |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    if processes == 1:
        return [common]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    if BACKEND == "torch":
        common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
        return [{**common, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(processes)]
    jax = {"JOB_ADDRESSES": f"localhost:{port}", "NUM_PROCESSES": str(processes)}
    common |= {f"KERAS_DISTRIBUTION_{name}": value for name, value in jax.items()}
    return [{**common, "KERAS_DISTRIBUTION_PROCESS_ID": str(i)} for i in range(processes)]


def run(processes=1, **asked):
    """What each process of tests/distributed.py printed."""
    asked = {"devices": processes, **asked}
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests/distributed.py")]
    started = [
        subprocess.Popen(
            [*command, json.dumps(asked)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in _environments(processes)
    ]
    # At once: processes of JAX end together, and one waits for ever if its output is not read.
    with ThreadPoolExecutor(processes) as readers:
        ended = list(readers.map(lambda process: process.communicate(timeout=600), started))
    for process, (_, errors) in zip(started, ended, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]


def assert_same_training(one, many, atol=1e-5):
    """The same losses and logs to 1e-4 at every step, and the same weights at the end."""
    assert one["step"] == many["step"]
    for name, values in one["history"].items():
        if name != "gradient_norm" or BACKEND != "tensorflow":  # there the replicas' mean
            np.testing.assert_allclose(many["history"][name], values, rtol=1e-4, err_msg=name)
    for name, value in one["evaluated"].items():
        assert many["evaluated"][name] == pytest.approx(value, rel=1e-4), name
    np.testing.assert_allclose(many["samples"], one["samples"], atol=1e-4)
    for name in ("weights", "average"):
        for a, b in zip(one[name], many[name], strict=True):
            np.testing.assert_allclose(a, b, atol=atol)


@ON_TENSORFLOW
def test_two_replicas_take_the_steps_of_one_device():
    (one,), (two,) = run(), run(devices=2)
    assert_same_training(one, two)
    assert one["history"]["stage"][-1] > 0
    assert not two["jit"]


@ON_JAX
def test_two_devices_take_the_steps_of_one():
    (one,), (two,) = run(), run(devices=2)
    assert_same_training(one, two)
    assert one["history"]["stage"][-1] > 0


@ON_TORCH
def test_two_processes_have_one_gradient_that_of_one_device():
    (one,), (first, second) = run(), run(processes=2)
    for process in (first, second):
        assert_same_training(one, process)
        for a, b in zip(one["gradients"], process["gradients"], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    for a, b in zip(first["gradients"], second["gradients"], strict=True):
        np.testing.assert_array_equal(a, b)


@ON_TORCH
def test_without_the_wrapper_each_process_goes_its_own_way():
    first, second = run(processes=2, wrapper=False, steps=1)
    gradients = zip(first["gradients"], second["gradients"], strict=True)
    assert not all(np.allclose(a, b, atol=1e-5) for a, b in gradients)


@ON_TORCH
@pytest.mark.long
def test_two_processes_take_one_pass_and_go_on_from_a_checkpoint_of_one(tmp_path):
    asked = dict(network="dit", optimizer="adam", steps=10)
    saved, of_two = str(tmp_path / "one.keras"), str(tmp_path / "two.keras")
    (one,) = run(save=saved, **asked)
    assert_same_training(one, run(processes=2, save=of_two, **asked)[0])
    (whole,) = run(resume=saved, **asked)
    assert_same_training(whole, run(processes=2, resume=saved, **asked)[1])
    assert_same_training(whole, run(resume=of_two, **asked)[0])


@ON_JAX
@pytest.mark.long
@pytest.mark.parametrize(
    "many",
    [dict(devices=8), dict(devices=8, model_devices=4), dict(processes=2, devices=4)],
)
def test_meshes_of_devices_take_the_steps_of_one_and_exchange_checkpoints(many, tmp_path):
    asked = dict(network="dit", optimizer="adam", steps=20)
    saved, of_many = str(tmp_path / "one.keras"), str(tmp_path / "many.keras")
    (one,) = run(save=saved, **asked)
    several = run(save=of_many, **many, **asked)
    for process in several:
        assert_same_training(one, process)
    asked["steps"] = 5
    (whole,) = run(resume=saved, **asked)
    assert_same_training(whole, run(resume=of_many, **asked)[0])
    assert_same_training(whole, run(resume=saved, **many, **asked)[0])


@ON_TENSORFLOW
@pytest.mark.long
def test_two_replicas_take_twenty_steps_of_a_transformer(tmp_path):
    asked = dict(network="dit", optimizer="adam", steps=20)
    saved = str(tmp_path / "one.keras")
    (one,), (two,) = run(save=saved, **asked), run(devices=2, **asked)
    assert_same_training(one, two)
    asked["steps"] = 5
    assert_same_training(run(resume=saved, **asked)[0], run(devices=2, resume=saved, **asked)[0])


@pytest.mark.long
@pytest.mark.skipif(BACKEND == "tensorflow", reason="processes of PyTorch and JAX")
def test_two_processes_of_the_command_leave_the_run_of_one(tmp_path):
    settings = "width=8 depth=1 heads=2 batch_size=8 steps=4 log_every=2 sample_every=none".split()
    logs = []
    for processes in (1, 2):
        run_dir = tmp_path / str(processes)
        command = [sys.executable, "-m", "keras_meanflow.cli", "train", "digits"]
        command += ["--run", str(run_dir), "--backend", BACKEND]
        command += [part for setting in settings for part in ("--set", setting)]
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for environment in _environments(processes)
        ]
        told = [process.communicate(timeout=600)[0] for process in started]
        assert [process.returncode for process in started] == [0] * processes
        assert "is finished: 4 steps" in told[0]
        assert not any("steps" in text for text in told[1:])  # what Gloo says is its own
        assert (run_dir / "samples.png").exists()
        logs.append(read_log(run_dir / "log.csv"))
    one, two = logs
    assert [row["step"] for row in two] == [2, 4]
    for before, after in zip(one, two, strict=True):
        for name in ("loss", "v_error", "u_error", "du_dt_norm", "gradient_norm"):
            np.testing.assert_allclose(after[name], before[name], rtol=1e-4, err_msg=name)
