"""A run, a preset or a file received from someone: looking at it runs no code of theirs."""

import json
import shutil

import numpy as np
import pytest
from commands import call, refusal

EVIL = '''
import pathlib
from keras_meanflow.recipe import method, task
pathlib.Path({marker!r}).touch()

@task
def mine(*, steps: int = 6):
    """Not what it seems."""

@method
def theirs(task):
    """Nor this."""
'''


@pytest.fixture
def gift(own, tmp_path, monkeypatch):
    """A copy of a run, a file of code that leaves a mark when it is imported, and the mark."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(own / "run", tmp_path / "run")
    mark = tmp_path / "mark"
    (tmp_path / "evil.py").write_text(EVIL.format(marker=str(mark)))
    package = tmp_path / "evil_package"
    package.mkdir()
    (package / "__init__.py").write_text(EVIL.format(marker=str(mark)))
    (package / "inner.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)

    def given(**settings):
        path = tmp_path / "run" / "settings.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return tmp_path / "run"

    yield given
    assert not mark.exists(), "code of a gift was run"


EVIL_FILE = "evil.py:mine"
HOSTILE = [
    {"task": EVIL_FILE},
    {"task": EVIL_FILE, "method": "evil.py:theirs"},
    {"task": None, "recipe": EVIL_FILE},
    {"task": "digits", "method": "evil.py:theirs"},
]
LOOKS = [
    ("sample", "-n", 3, "--out", "x.png"),
    ("convert", "weights.safetensors"),
    ("reflow", "pairs", "-n", 3, "--steps", 1),
]


@pytest.mark.parametrize(
    "settings, look",
    [*((s, LOOKS[0]) for s in HOSTILE), *((HOSTILE[1], look) for look in LOOKS[1:])],
)
def test_looking_at_a_run_imports_no_file_that_its_settings_name(gift, settings, look):
    output, code = call(look[0], gift(**settings), *look[1:])
    assert code == 0, output


@pytest.mark.parametrize(
    "backend", ["evil_package", "evil_package.inner", "os", "", None, 3, ["jax"]]
)
@pytest.mark.parametrize("command", ["sample", "train"])
def test_a_backend_of_a_run_is_one_of_three_and_nothing_else_is_imported(gift, backend, command):
    run = gift(backend=backend)
    line = (
        refusal("sample", run) if command == "sample" else refusal("train", "digits", "--run", run)
    )
    known = "must name a backend, one of jax, tensorflow, torch. Received"
    assert "settings.json" in line
    assert (known if isinstance(backend, str) else "its entry 'backend' is") in line


def test_a_study_needs_the_file_of_the_task_by_name(gift):
    for settings in HOSTILE:
        line = refusal("study", "du-dt", gift(**settings), "--images", 8)
        assert "a file of code. If you trust it, name it: --recipe evil.py" in line


@pytest.mark.parametrize("text", ["", "{", "[]", '{"backend": 1', "\udcff", "[" * 10**5])
def test_damaged_settings_are_one_line_that_names_them(gift, text):
    run = gift()
    (run / "settings.json").write_text(text, errors="surrogateescape")
    for command in (("sample", run), ("train", "digits", "--run", run)):
        assert "run/settings.json " in refusal(*command)


OWN_NETWORK = '''
import keras
import keras_meanflow as kmf
from keras_meanflow.networks import MLP
from keras_meanflow.recipe import task

@keras.saving.register_keras_serializable("mine")
class {name}(MLP):
    """A network of the user's."""

@task
def mine(*, steps: int = 1):
    """A task whose network only this file knows."""
    from keras_meanflow.data import ArraySource
    from keras_meanflow.training import Training
    import numpy as np
    flow_map = kmf.FlowMap({name}(data_size=2, width=8, depth=1), averages=())
    flow_map.compile(keras.optimizers.Adam(1e-3))
    x = np.zeros((8, 2), "float32")
    return Training(flow_map=flow_map, data=ArraySource(x), batch_size=8, steps=steps,
                    sample_labels=4)
'''


def test_a_missing_class_is_named_with_what_to_pass_and_recipe_imports_it(tmp_path, monkeypatch):
    import keras

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "network.py"
    file.write_text(OWN_NETWORK.format(name="HerNetwork"))
    assert call("train", file, "--run", "run", "-q")[1] == 0
    assert call("convert", "run", "preset")[1] == 0
    keras.saving.get_custom_objects().clear()  # as in a new process, for this class
    keras.saving.get_custom_objects().update(_others())
    for name in ("run", "preset"):
        line = refusal("sample", name, "-n", 2)
        assert "It needs the class 'HerNetwork'" in line and "--recipe FILE" in line
    file.touch()  # imports it again
    for name in ("run", "preset"):
        output, code = call("sample", name, "-n", 2, "--recipe", file, "--npz", "--out", "x.png")
        assert code == 0, output
    output, code = call("study", "du-dt", "run", "--recipe", file, "--images", 4, "--out", "s")
    assert code == 0, output
    assert np.isfinite(np.load("x.npz")["x"]).all()
    assert "There is no .py file absent.py" in refusal("sample", "run", "--recipe", "absent.py")


REGISTERED = {}


def _others():
    """The classes of the package and of Keras, without those of a user."""
    return {name: one for name, one in REGISTERED.items() if not name.startswith("mine>")}


@pytest.fixture(autouse=True)
def registered():
    import keras

    import keras_meanflow  # noqa: F401

    kept = dict(keras.saving.get_custom_objects())
    REGISTERED.update(kept)
    yield
    keras.saving.get_custom_objects().update(kept)


def hostile_objects(mark):
    """Serialised objects that would run code if they were imported or called."""
    lambda_layer = {
        "module": "keras.layers",
        "class_name": "Lambda",
        "config": {"name": "l", "function": {"class_name": "__lambda__", "config": {"code": ""}}},
    }
    call_of = {"module": "os", "class_name": "system", "config": f"touch {mark}"}
    function = {"module": "os", "class_name": "function", "config": "system"}
    package = {"module": "evil_package", "class_name": "mine", "config": {}}
    return [lambda_layer, call_of, function, package, {"module": "builtins", "class_name": "exec"}]


@pytest.mark.parametrize("number", range(5))
def test_a_preset_imports_nothing_that_its_config_names(gift, tmp_path, number):
    gift()
    assert call("convert", tmp_path / "run", "preset")[1] == 0
    card = tmp_path / "preset" / "README.md"
    card.write_text("")
    config = json.loads((tmp_path / "preset" / "config.json").read_text())
    config["flow_map"]["network"] = hostile_objects(tmp_path / "mark")[number]
    (tmp_path / "preset" / "config.json").write_text(json.dumps(config))
    assert "config.json cannot be read" in refusal("sample", "preset", "-n", 2)
