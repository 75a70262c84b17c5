"""Settings under which any task by any method builds in a second."""

from pathlib import Path

import keras
import numpy as np
from oracles import randomise
from small_data import ARRAYS, write_arrays, write_clips, write_images, write_pairs

from keras_meanflow import FlowMap
from keras_meanflow.data.reflow import reflow
from keras_meanflow.formats.conversion import save_network
from keras_meanflow.recipe import methods, tasks
from keras_meanflow.samplers import Euler
from keras_meanflow.training.method import with_interval
from keras_meanflow.training.plan import Plan

PAIRS = [
    (task, method)
    for task in tasks()
    for method in methods()
    if not Plan(tasks()[task], methods()[method]).lacking()
]
# XLA is slow to compile: on TensorFlow graphs are faster to make, on JAX single operations are not.
JIT = keras.config.backend() == "jax"
_SIZES = dict(
    batch_size=4, steps=2, warmup_steps=1, jit_compile=JIT, width=8, depth=1, heads=2,
    split_depth=1, head_depth=1, class_tokens=1, omega_tokens=1, interval_tokens=1, time_tokens=1,
    pairs=2, evaluations=2, log_every=2, sample_every=None, points=64,
)  # fmt: skip
_TASKS = {
    "digits": dict(patch_size=4),
    "mnist": dict(patch_size=14),
    "eurosat": dict(patch_size=16),
    "images": dict(image_size=16, patch_size=8),
    "cifar10": dict(multipliers=(1,), depth=1),
    "imagenet256": dict(patch_size=16),
    "mixture": dict(size=4, centres=8, classes=8),
    "digits_rae": dict(width=16, head_width=8),
    "imagenet_rae": dict(width=16, head_width=8),
    "speech": dict(width=4, multipliers=(1,), frames=4),
    "speech_digits": dict(frames=8, utterances=5),
}


def small(task: str, method: str, folder: Path) -> dict:
    """Small settings of a task by a method, with files in a folder."""
    plan, settings = Plan.of(task, method), {**_SIZES, **_TASKS.get(task, {})}
    settings |= _data(task, folder) if not (method.startswith("re_") and _replaced(task)) else {}
    knobs = plan.knobs()
    if "pair_store" in knobs:
        settings["pair_store"] = _pairs(task, folder)
    if {"teacher", "start"} & set(knobs) and method != "split_mean_flow":
        settings |= _networks(task, folder)
    return {name: value for name, value in settings.items() if name in knobs}


def _replaced(task):
    """Whether pairs take the place of the task's data; some tasks read their shapes from it."""
    return task != "images" and not task.endswith("_rae")


def _data(task, folder):
    if task == "images":
        return {"data": write_images(folder)}
    if task.startswith("speech"):
        pairs = write_pairs(folder)
        return (
            {"data": pairs} if task == "speech" else {"data": write_clips(folder), "noise": pairs}
        )
    kind = "rae" if task.endswith("_rae") else task
    return {"data": write_arrays(kind, folder)} if kind in ARRAYS else {}


def _flow_model(task, folder):
    plan = Plan.of(task, "flow_matching")
    return plan.training(small(task, "flow_matching", folder)).flow_map


def _networks(task, folder):
    """Files of a flow model, and of the same with an input t - r."""
    teacher, start = folder / "teacher.safetensors", folder / "start.safetensors"
    network = randomise(_flow_model(task, folder).network)
    save_network(network, teacher)
    save_network(with_interval(network), start)
    return {"teacher": str(teacher), "start": str(start)}


def _pairs(task, folder):
    """Pairs by an untrained teacher of the task's data."""
    flow = _flow_model(task, folder)
    teacher = FlowMap(flow.network, flow.objective, averages=())
    teacher.compile(jit_compile=False)
    labels = np.arange(6) % (teacher.network.num_classes or 6) if teacher.network.conditional else 6
    return str(reflow(teacher, folder / "pairs", labels, sampler=Euler(steps=1)).path)
