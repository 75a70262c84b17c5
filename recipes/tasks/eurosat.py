"""EuroSAT: satellite images."""

import functools

import numpy as np

from keras_meanflow import DiT
from keras_meanflow.data import open_source
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import LogitNormal
from keras_meanflow.recipe import task
from keras_meanflow.training import Task
from keras_meanflow.training.task import given

_DATA = (
    "an .npz file with x_train (n, 32, 32, 3) of uint8 pixels and y_train (n,) of labels 0 to 9, "
    "or a folder with a sub-folder of images for each class"
)


@task(
    has=("DiT", "noise"),
    every=dict(fraction_r_equals_t=0.5),
    methods={
        "mean_flow": {},
        "improved_mean_flow": dict(
            head_depth=2, class_tokens=2, omega_tokens=1, interval_tokens=1, time_tokens=2
        ),
        "decoupled_mean_flow": dict(steps=20000),
        "flow_consist": dict(steps=20000, rectification=0.5),
    },
)
def eurosat(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 40_000,
    batch_size: int = 128,
    optimizer: str = "adam",
    learning_rate: float = 3e-4,
    warmup_steps: int = 1000,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.9998,),
    width: int = 384,
    depth: int = 8,
    heads: int = 6,
    patch_size: int = 4,
    sample_every: int | None = 1000,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """EuroSAT, 32x32 in colour, ten classes of land use, with a DiT of patch size 4.

    learning_rate is for Adam; optimizer=splus uses 2 width learning_rate (docs/guide/splus.md), and
    optimizer=adam-bf16 keeps the momentum in bfloat16. last_rate is the final learning rate, as a
    share of the largest; 1 keeps it constant.

    Data paper: EuroSAT (arXiv 1709.00029).
    Command: keras-meanflow train eurosat --set data=PATH.npz
    Data: x_train (n, 32, 32, 3) of uint8 and y_train (n,); or a folder with a sub-folder per class.
    Cost: meant for a GPU.
    """
    return Task(
        data=functools.partial(_images, data),
        network=functools.partial(
            DiT,
            image_size=32,
            channels=3,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=heads,
            num_classes=10,
        ),
        compile=compile_with(
            optimizer,
            learning_rate,
            width=width,
            steps=steps,
            warmup_steps=warmup_steps,
            last_rate=last_rate,
            jit_compile=jit_compile,
        ),
        times=LogitNormal(),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.repeat(np.arange(10), 10),
        averages=averages,
        flip=True,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=10,
        checkpoint_seconds=checkpoint_seconds,
    )


def _images(data):
    return open_source(given(data, "data", _DATA), image_size=32, channels=3)
