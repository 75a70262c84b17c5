"""Handwritten digits from noise: the default task."""

import functools

import numpy as np

from keras_meanflow import DiT
from keras_meanflow.data import load_digits
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import LogitNormal
from keras_meanflow.recipe import task
from keras_meanflow.training import Task


@task(
    has=("DiT", "noise"),
    every=dict(power=0.5, fraction_r_equals_t=0.5, label_dropout=0.0),
    methods={
        "mean_flow": {},
        "improved_mean_flow": dict(
            head_depth=2, class_tokens=2, omega_tokens=1, interval_tokens=1, time_tokens=2
        ),
        "decoupled_mean_flow": dict(steps=2000),
        "flow_consist": dict(steps=2000, rectification=0.1),
        "re_mean_flow": dict(steps=2000),
        "re_mean_flow_guided": dict(steps=2000),
    },
)
def digits(
    *,
    seed: int = 0,
    steps: int = 4000,
    batch_size: int = 64,
    optimizer: str = "adam",
    learning_rate: float = 1.5e-3,
    warmup_steps: int = 200,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.999,),
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    patch_size: int = 2,
    sample_every: int | None = 500,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """The 8x8 digits that ship with the package, by class, with a small DiT.

    Trains on every other digit; the others are there to judge by. Guidance is off: it costs steps,
    and steps help more here. So no label is dropped; a sampler's guidance scale needs some
    (label_dropout=0.1). power is 0.5: at the paper's 1 one-step samples are too alike.

    learning_rate is Adam's. optimizer=splus takes 2 width learning_rate (docs/splus.md); adam-bf16
    keeps its momentum in bfloat16. last_rate is the share of the rate that is left at the end; 1
    for a constant rate.

    Command: keras-meanflow train digits
    Cost: on two CPU cores 34 to 73 ms a step on JAX, two and a half to five minutes.
    """
    return Task(
        data=functools.partial(load_digits, "train"),
        network=functools.partial(
            DiT,
            image_size=8,
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
