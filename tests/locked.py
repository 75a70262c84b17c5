"""The settings under which the lock holds the recipes of version 0.1.0, at reduced size."""

from pathlib import Path

import keras
import numpy as np
from oracles import randomise
from small_data import ARRAYS, write_arrays, write_clips, write_pairs

from keras_meanflow import DiT, FlowMap
from keras_meanflow.data.reflow import reflow
from keras_meanflow.formats.conversion import save_network
from keras_meanflow.networks import DiTDH
from keras_meanflow.samplers import Euler

RECIPES = """
    cifar10_unet cifar10_unet_v1 digits digits_alpha digits_dmf digits_flow
    digits_flow_consist digits_imf digits_improved digits_rae_cmt digits_rae_mfd
    digits_rae_mft digits_rae_teacher digits_reflow digits_split eurosat eurosat_improved
    gaussian imagenet256_alpha_b2 imagenet256_alpha_xl2 imagenet256_dit_b2
    imagenet256_dit_b4 imagenet256_dit_b4_improved imagenet256_dit_l2
    imagenet256_dit_l2_improved imagenet256_dit_xl2 imagenet256_dit_xl2_improved
    imagenet256_dmf_xl2 imagenet256_imf_b2 imagenet256_reflow_xl2 imagenet_rae_cmt
    imagenet_rae_mfd imagenet_rae_mft imagenet_rae_teacher mnist mnist_alpha mnist_dmf
    mnist_flow mnist_flow_consist mnist_imf mnist_improved mnist_reflow mnist_split
    speech_digits speech_digits_released speech_vbdmd speech_vbdmd_released
""".split()
# Settings that change what is built, beside the defaults of every recipe.
VARIANTS = [
    ("digits", dict(omega=0.5, kappa=0.5, label_dropout=0.1, power=1.0)),
    ("digits", dict(optimizer="splus", last_rate=0.5)),
    ("digits_improved", dict(gamma=None, stages=20, patience=50)),
    ("digits_improved", dict(exponent=None)),
    ("digits_imf", dict(largest=4.0, label_dropout=0.1)),
    ("mnist", dict(optimizer="adam-bf16")),
    ("eurosat_improved", dict(exponent=2.0)),
    ("imagenet256_dit_b4", dict(kappa=0.0, learning_rate=2e-4)),
    ("imagenet256_alpha_b2", dict(begin=0.2, until=0.7)),
    ("mnist_reflow", dict(largest_scale=2.5)),
    ("imagenet256_reflow_xl2", dict(largest_scale=3.0)),
    ("speech_digits", dict(exponent=2.0, power=0.5)),
]
_REDUCED = {
    "width": 8,
    "depth": 1,
    "heads": 2,
    "split_depth": 1,
    "head_depth": 1,
    "multipliers": (1, 1),
}


CASES = [*((name, {}) for name in RECIPES), *VARIANTS]


def key_of(name: str, changes: dict) -> str:
    """The key of a case in the golden file."""
    return " ".join([name, *(f"{k}={v}" for k, v in changes.items())])


def small_settings(name: str, folder: Path) -> dict:
    """Data, sizes and networks to start from, for a recipe of version 0.1.0."""
    keras.utils.set_random_seed(3)
    settings = dict(_REDUCED)
    if name.startswith("speech"):
        return settings | _speech(name, folder)
    if "_rae" in name:
        return settings | dict(width=16, head_width=8) | _tokens(name, folder)
    if "_reflow" in name:
        return settings | dict(data=_pairs(name, folder / "pairs"), batch_size=4)
    kind = name.partition("_")[0]
    if kind in ARRAYS:
        settings |= dict(data=write_arrays(kind, folder), batch_size=4)
    return settings


def _speech(name, folder):
    if name.startswith("speech_vbdmd"):
        return dict(width=4, multipliers=(1,), frames=4, data=write_pairs(folder))
    return dict(
        data=write_clips(folder), noise=write_pairs(folder), frames=8, utterances=5, batch_size=4
    )


# The networks that the trainings of MF-RAE start from.
_STARTS = {"cmt": ("teacher",), "mfd": ("teacher", "start"), "mft": ("start",)}


def _tokens(name, folder):
    classes = 1000 if name.startswith("imagenet") else 10
    sizes = dict(width=(16, 8), depth=(1, 1), heads=(2, 2), num_classes=classes)
    settings = dict(data=write_arrays("rae", folder), batch_size=4)
    for knob in _STARTS.get(name.rpartition("_")[2], ()):
        time_inputs = ("t",) if knob == "teacher" else ("t", "t-r")
        network = DiTDH(image_size=2, channels=8, time_inputs=time_inputs, **sizes)
        path = folder / f"{knob}.safetensors"
        save_network(randomise(network), path)
        settings[knob] = str(path)
    return settings


def _pairs(name, folder):
    """Pairs by an untrained teacher of the recipe's data."""
    arrays = ARRAYS.get(name.partition("_")[0], {})
    x = arrays.get("x", arrays.get("x_train", np.zeros((6, 8, 8, 1))))
    shape = (*x.shape[1:], 1)[:3]
    classes = 1000 if name.startswith("imagenet") else 10
    sizes = dict(patch_size=4, width=8, depth=1, heads=2, num_classes=classes)
    teacher = FlowMap(DiT(image_size=shape[0], channels=shape[2], **sizes), averages=())
    teacher.compile(jit_compile=False)
    return str(reflow(teacher, folder, np.arange(6), sampler=Euler(steps=1)).path)
