"""The small handwritten digits that come with the package: the first task to try."""

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
    """The 8x8 digits that come with the package, class-conditional, with a small DiT.

    Half of the digits, every second one, are for training; the rest is for evaluation. Guidance is
    off: it makes a step more expensive, and more steps help more here. So labels are not dropped;
    set label_dropout=0.1 to use a guidance scale in sampling. power is 0.5: with 1, as in the
    paper, the one-step samples have too little diversity.

    learning_rate is for Adam; optimizer=splus uses 2 width learning_rate (docs/guide/splus.md), and
    optimizer=adam-bf16 keeps the momentum in bfloat16. last_rate is the final learning rate, as a
    share of the largest; 1 keeps it constant.

    Command: keras-meanflow train digits
    Cost: 34 to 73 ms per step on two CPU cores with JAX, two and a half to five minutes.
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
