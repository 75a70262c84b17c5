"""Files of version 0.1.0: runs go on and load, saved models load, all draw what they drew."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_meanflow import open_model
from keras_meanflow.backend import BACKEND
from keras_meanflow.training.run import check_same, describe, plan_of, read_settings, train

GOLDEN = Path(__file__).parents[1] / "golden" / "old_runs.tar.xz"
RUNS = ["digits", "digits_flow", "digits_improved", "digits_split"]
SAVED = ["decoupled", "easy_first"]


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """The folder of the old files."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    return folder / "old_runs"


def samples(flow_map):
    return flow_map.generate(np.arange(3), steps=1, seed=1, verbose=0)


@pytest.mark.parametrize("name", [*RUNS, *SAVED])
def test_what_was_saved_draws_what_it_drew(name, old):
    opened = open_model(old / (name if name in RUNS else f"{name}.keras"))
    assert opened.place.kind == ("run" if name in RUNS else "saved")
    drawn = np.load(old / "samples.npz")[name]
    np.testing.assert_allclose(samples(opened.flow_map), drawn, atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_goes_on_to_the_end_it_would_have_had(name, old, tmp_path):
    folder = tmp_path / name
    shutil.copytree(old / name, folder)
    settings = read_settings(folder)
    if settings["backend"] != BACKEND:  # the run is of JAX: say that it is this backend's
        (folder / "settings.json").write_text(json.dumps({**settings, "backend": BACKEND}))
    plan, knobs = plan_of(read_settings(folder))
    assert plan.task.name == "digits"
    if "teacher" in knobs:
        knobs["teacher"] = str(old / "digits_flow")
        old_settings = {**settings, "backend": BACKEND}
        old_settings["knobs"] = {**settings["knobs"], "teacher": knobs["teacher"]}
        (folder / "settings.json").write_text(json.dumps(old_settings))
    knobs = plan.resolve({k: tuple(v) if isinstance(v, list) else v for k, v in knobs.items()})
    check_same(folder, describe(plan, knobs))
    assert train(plan.training(knobs), folder, describe(plan, knobs), verbose=0) == 2
    drawn = np.load(old / "samples.npz")[f"{name}_finished"]
    np.testing.assert_allclose(samples(open_model(folder).flow_map), drawn, atol=2e-3)


def test_another_setting_of_an_old_run_is_refused(old):
    plan, knobs = plan_of(read_settings(old / "digits"))
    settings = {**describe(plan, plan.resolve({**knobs, "width": 8})), "backend": "jax"}
    with pytest.raises(ValueError, match="width was 4, now 8"):
        check_same(old / "digits", settings)


@pytest.mark.parametrize("order", ["keras, keras_meanflow", "keras_meanflow, keras"])
def test_keras_finds_every_class_once_the_package_is_imported(order, old):
    code = f"import {order}; keras.models.load_model({str(old / 'decoupled.keras')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_keras_itself_is_as_it_was():
    assert type(keras.__spec__.loader).__name__ != "_AfterKeras"
    assert keras.__spec__.loader is keras.__loader__
