"""What the command line refuses: one line each, early, and nothing is left that blocks."""

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from keras_meanflow import FlowMap, cli
from keras_meanflow.cli.errors import one_line_errors, traceback_option
from keras_meanflow.data.encoding import encode
from keras_meanflow.data.latents import LatentStore
from keras_meanflow.data.pairs import PairStore
from keras_meanflow.data.reflow import reflow
from keras_meanflow.networks import MLP
from keras_meanflow.samplers import Euler


def call(*arguments):
    done = CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="keras-meanflow")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    return done.output.strip().splitlines()[-1], done.exit_code


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ["--set", "width=8", "--set", "depth=1", "--set", "steps=2"]
WRONG = [
    *(
        (["train", "digits", *SMALL, "--set", setting], rule)
        for setting, rule in (
            ("depth=0", "depth must be a whole number of at least 1. Received: 0"),
            ("heads=0", "heads must be a whole number of at least 1. Received: 0"),
            ("learning_rate=-1", "learning_rate"),
            ("learning_rate=nan", "learning_rate"),
            ("label_dropout=nan", "label_dropout must be finite"),
            ("label_dropout=2", "label_dropout must lie in [0, 1]"),
            ("power=-5", "p must be at least 0 and finite"),
            ("power=inf", "p must be at least 0 and finite"),
            ("averages=0.9,0.9", "averages are different decays"),
            ("last_rate=nan", "last_rate must be at least 0 and finite"),
            ("checkpoint_seconds=nan", "checkpoint_seconds must exceed 0"),
            ("jit_compile=perhaps", "jit_compile must be auto, True or False"),
            ("batch_size=1000000000000", "not enough memory"),
            ("steps=inf", "steps must be of type int"),
        )
    ),
    (["train", "gaussian", *SMALL, "--set", "learning_rate=-1"], "learning_rate"),
    (["bench", "digits", "--steps", "0"], "0 is not in the range x>=1"),
    (["bench", "digits", "--peak", "nan"], "nan is not a finite number"),
    (["evaluate", "--images", "digits", "--channels", "-1"], "-1 is not in the range x>=1"),
    (["evaluate", "run", "--samples", "0"], "0 is not in the range x>=1"),
    (["rae", "digits", "out.keras", "--noise", "nan"], "nan is not a finite number"),
    (["sample", "run", "--shift", "-1"], "-1.0 is not in the range x>0"),
    (["sample", "run", "--out", "/dev/null"], "/dev/null is a special file"),
    (["statistics", "digits", "."], ". is a folder. Name a file"),
    (["reflow", "run", "file"], "file is a file. Name a folder"),
    (["export", "run", "file/out"], "file is no folder"),
    (["study", "u-error", "run", "--gaps", "2"], "--gaps are numbers from 0 to 1"),
    (["study", "u-error", "run", "--gaps", "nan"], "--gaps are numbers from 0 to 1"),
    (["study", "affinity", "run", "--bins", "0.3-0.1"], "--bins are pairs that rise in [0, 1]"),
    (["study", "one-gap", "digits", "--seeds", "0.5"], "--seeds are whole numbers"),
]


@pytest.mark.parametrize("arguments, rule", WRONG)
def test_a_wrong_command_line_is_one_line_and_leaves_nothing(arguments, rule, here):
    (here / "file").touch()
    line, code = call(*arguments)
    assert code in (1, 2) and line.startswith("Error: ") and rule in line
    assert [path.name for path in here.iterdir()] == ["file"]


def raising(error):
    @click.command()
    @traceback_option
    def command():
        with one_line_errors():
            raise error

    return command


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("depth must\n  be 1."), "Error: depth must be 1."),
        (MemoryError(), "Error: There is not enough memory. Ask for less at once."),
        (SyntaxError("invalid", ("my.py", 3, 1, "x =")), "Error: my.py, line 3, is not Python"),
        (RuntimeError("CUDA out of memory."), "Error: There is not enough memory. Ask for less"),
        (KeyError("x"), "Error: Unexpected KeyError: 'x'. Add --verbose to see where"),
        (ZeroDivisionError("modulo by zero"), "Error: Unexpected ZeroDivisionError: modulo by"),
        (TypeError(), "Error: Unexpected TypeError: no message."),
        (RecursionError("depth"), "Error: Unexpected RecursionError: depth."),
    ],
)
def test_every_error_is_one_line_and_only_ours_has_a_traceback_when_asked_for(error, line):
    done = CliRunner().invoke(raising(error))
    assert done.exit_code == 1 and done.output.startswith(line) and done.output.count("\n") == 1
    done = CliRunner().invoke(raising(error), ["--verbose"])
    assert ("Traceback" in done.output) is ("Unexpected" in line)
    assert done.output.splitlines()[-1].startswith(line[:25])


def test_a_users_file_with_a_mistake_is_one_line(here):
    (here / "mine.py").write_text("def mine(:\n")
    line, code = call("train", "mine.py")
    assert code == 1 and "mine.py, line 1, is not Python" in line


def test_converting_replaces_no_file_of_another_kind(here):
    (here / "README.md").write_text("mine")
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1))
    with pytest.raises(ValueError, match="holds README.md and is no preset"):
        flow_map.save_to_preset(here)
    (here / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json must be what save_to_preset writes"):
        flow_map.save_to_preset(here)
    assert (here / "README.md").read_text() == "mine"
    for _ in range(2):  # a preset may be written again
        flow_map.save_to_preset(here / "preset")


def test_an_export_that_fails_leaves_what_was_there(here, monkeypatch):
    import keras

    (here / "out").mkdir()
    (here / "out" / "old").touch()

    def fail(model, path, **_):
        path.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "export", fail)
    with pytest.raises(OSError, match="out could not be written: No space left on device"):
        FlowMap(MLP(data_size=2, width=4, depth=1)).export(here / "out")
    assert [str(path.relative_to(here)) for path in sorted(here.rglob("*"))] == ["out", "out/old"]


def images(folder, values):
    for i, value in enumerate(values):
        (folder / str(i % 2)).mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(np.full((8, 8, 3), value, "uint8"))
        picture.save(folder / str(i % 2) / f"{i}.ppm")
    return folder


def test_encoding_goes_on_only_with_the_same_images(here):
    from keras_meanflow.codecs import Identity
    from keras_meanflow.data import ImageFolder

    source = images(here / "images", range(0, 200, 5))
    encode(ImageFolder(source, 8), here / "store", Identity())
    encode(ImageFolder(source, 8), here / "store", Identity())
    changed = source / "1" / "33.ppm"  # of the same size
    changed.write_bytes(changed.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match="holds another encoding: data was"):
        encode(ImageFolder(source, 8), here / "store", Identity())


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_damaged_files_of_a_store_are_named_when_they_are_first_read(here):
    from keras_meanflow.codecs import Identity
    from keras_meanflow.data import ArraySource

    x = np.random.default_rng(0).uniform(-1, 1, (6, 8, 8, 3)).astype("float32")
    encode(ArraySource(x, np.arange(6)), here / "store", Identity(), shard_size=3)
    flip(here / "store" / "shard-00001.npy")
    store = LatentStore(here / "store")
    store.take([0])
    with pytest.raises(ValueError, match=r"shard-00001.npy is damaged"):
        store.take([5])
    flip(here / "store" / "labels.npy")
    with pytest.raises(ValueError, match=r"labels.npy is damaged"):
        LatentStore(here / "store")


def teacher():
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1, num_classes=3), averages=())
    flow_map.compile(jit_compile=False)
    return flow_map


@pytest.mark.parametrize("name", ["labels.npy", "distances.npy", "shard-00000.npy"])
def test_damaged_files_of_pairs_are_named(name, here):
    reflow(teacher(), here / "pairs", np.arange(3), sampler=Euler(steps=1))
    flip(here / "pairs" / name)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        PairStore(here / "pairs").take([0])


def test_pairs_that_failed_do_not_block_the_corrected_ones(here):
    model, solver = teacher(), Euler(steps=1)
    with pytest.raises(ValueError, match="Labels must lie in 0..2"):
        reflow(model, here / "pairs", [0, 99], sampler=solver)
    assert len(reflow(model, here / "pairs", [0, 2], sampler=solver)) == 2
    with pytest.raises(ValueError, match="holds another reflow: labels was"):
        reflow(model, here / "pairs", [0, 1], sampler=solver)


def test_an_old_name_takes_its_settings_into_account(here):
    from keras_meanflow.cli.plans import open_plan

    plan, settings, _ = open_plan("digits_reflow", None, None, ["largest_scale=2.5", "data=p"])
    assert plan.method.name == "re_mean_flow_guided"
    assert {"largest_scale=2.5", "pair_store=p"} <= set(settings)
    assert open_plan("digits_reflow", None, None, ["data=p"])[0].method.name == "re_mean_flow"
