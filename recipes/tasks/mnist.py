"""MNIST: handwritten digits."""

import functools

import numpy as np

from keras_meanflow import DiT
from keras_meanflow.data import open_source
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import LogitNormal
from keras_meanflow.recipe import task
from keras_meanflow.training import Task
from keras_meanflow.training.task import given

_DATA = "a file with x_train (n, 28, 28) of uint8 pixels and y_train (n,) of labels 0 to 9"


@task(
    has=("DiT", "noise"),
    every=dict(fraction_r_equals_t=0.5),
    methods={
        "mean_flow": {},
        "improved_mean_flow": dict(
            head_depth=2, class_tokens=2, omega_tokens=1, interval_tokens=1, time_tokens=2
        ),
        "decoupled_mean_flow": dict(steps=7500),
        "flow_consist": dict(steps=7500, rectification=0.5),
    },
)
def mnist(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 15_000,
    batch_size: int = 32,
    optimizer: str = "adam",
    learning_rate: float = 4e-3,
    warmup_steps: int = 200,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.999,),
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    patch_size: int = 7,
    sample_every: int | None = 1000,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """MNIST, 28x28, class-conditional, with a small DiT of 16 patches.

    learning_rate is for Adam; optimizer=splus uses 2 width learning_rate (docs/guide/splus.md), and
    optimizer=adam-bf16 keeps the momentum in bfloat16. last_rate is the final learning rate, as a
    share of the largest; 1 keeps it constant.

    Command: keras-meanflow train mnist --set data=PATH.npz
    Data: x_train (60000, 28, 28) of uint8 and y_train (60000,), as in Keras' mnist.npz.
    Cost: 981 s with JAX on one core of a 2-core CPU; the other core was busy. A GPU allows more
        tokens, and more images per step (docs/results/improved_training.md).
    """
    return Task(
        data=functools.partial(_images, data),
        network=functools.partial(
            DiT,
            image_size=28,
            channels=1,
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
            beta_2=0.99,
            jit_compile=jit_compile,
        ),
        times=LogitNormal(),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.repeat(np.arange(10), 10),
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=10,
        checkpoint_seconds=checkpoint_seconds,
    )


def _images(data):
    return open_source(given(data, "data", _DATA), image_size=28, channels=1)
