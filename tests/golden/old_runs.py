"""Wrote old_runs.tar.xz: runs of version 0.1.0 stopped half-way, saved models, and what they drew.

Run on JAX at the commit that added this file, where recipes still were functions of their own:

    KERAS_BACKEND=jax PYTHONPATH=tests python tests/golden/old_runs.py
"""

import dataclasses
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from keras_meanflow.curriculum import Curriculum  # noqa: E402
from keras_meanflow.runs import describe, load, train  # noqa: E402

from keras_meanflow import DecoupledMeanFlow, DiT, EasyFirst, FlowMap, MeanFlow  # noqa: E402
from keras_meanflow.recipe import find, resolve  # noqa: E402

OUT = Path(__file__).parent / "old_runs"
SMALL = dict(width=4, depth=1, heads=1, patch_size=4, batch_size=4, log_every=2, warmup_steps=1)
TINY = [f"{k}={v}" for k, v in SMALL.items()] + ["sample_every=none", "jit_compile=false"]
RUNS = {
    "digits": ["steps=4"],
    "digits_flow": ["steps=4", "label_dropout=0.1"],
    "digits_improved": ["steps=4", "gamma=none", "stages=4", "patience=1"],
    "digits_split": ["steps=4", "teacher=old_runs/digits_flow"],
}


def run(name, settings):
    """A run that stopped after two of four steps; what it draws, and what it draws in the end."""
    keras.utils.set_random_seed(0)
    function = find(name).load()
    knobs = resolve(function, [*TINY, *settings])
    absolute = {k: str(OUT.parent / v) if k == "teacher" else v for k, v in knobs.items()}
    folder = OUT / name
    settings, training = describe(name, knobs, f"train {name}"), function(**absolute)
    train(dataclasses.replace(training, steps=2), folder, settings, verbose=0)
    for path in folder.iterdir():
        if path.name not in ("settings.json", "checkpoints", "log.csv"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    stopped = samples(load(folder))
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, Path(copy) / name)
        train(function(**absolute), Path(copy) / name, settings, verbose=0)
        return {name: stopped, f"{name}_finished": samples(load(Path(copy) / name))}


def samples(flow_map):
    return flow_map.generate(np.arange(3), steps=1, seed=1, verbose=0)


def saved(name, objective):
    """A model with variables of its own: two steps, saved; and what it draws."""
    keras.utils.set_random_seed(0)
    network = DiT(image_size=4, channels=1, patch_size=4, width=4, depth=1, heads=1, num_classes=3)
    flow_map = FlowMap(network, objective, averages=(0.9, 0.99))
    flow_map.compile(keras.optimizers.Adam(1e-3), jit_compile=False)
    x = np.random.default_rng(0).standard_normal((8, 4, 4, 1)).astype("float32")
    flow_map.fit(x, np.arange(8) % 3, batch_size=4, callbacks=[Curriculum()], verbose=0)
    flow_map.save(OUT / f"{name}.keras")
    return samples(flow_map)


shutil.rmtree(OUT, ignore_errors=True)
drawn = {}
for name, settings in RUNS.items():
    drawn |= run(name, settings)
drawn |= {
    "decoupled": saved("decoupled", DecoupledMeanFlow()),
    "easy_first": saved("easy_first", MeanFlow(times=EasyFirst())),
}
np.savez(OUT / "samples.npz", **drawn)
with tarfile.open(OUT.with_suffix(".tar.xz"), "w:xz", preset=9) as archive:
    archive.add(OUT, OUT.name)
shutil.rmtree(OUT)
