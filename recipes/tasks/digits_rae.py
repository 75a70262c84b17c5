"""Digits in the token space of a representation autoencoder."""

import functools

import keras
import numpy as np

from keras_meanflow import Heun
from keras_meanflow.data import open_source
from keras_meanflow.networks import DiTDH
from keras_meanflow.parts import ShiftedUniform
from keras_meanflow.recipe import task
from keras_meanflow.samplers import shifted_times
from keras_meanflow.training import Task
from keras_meanflow.training.task import given


@task(
    has=("noise",),
    methods={
        "flow_matching": {},
        "trajectory_regression": dict(steps=600, learning_rate=2e-3, pairs=4),
        "mean_flow_distillation": dict(steps=600, learning_rate=1e-4, fraction_r_equals_t=0.5),
        "mean_flow_tuning": dict(steps=200, learning_rate=1e-4, fraction_r_equals_t=0.5),
    },
)
def digits_rae(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 6000,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    averages: tuple[float, ...] = (0.998,),
    width: int = 64,
    head_width: int = 128,
    depth: int = 3,
    heads: int = 4,
    shift: float = 2.0,
    sample_every: int | None = 500,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """The digits as tokens, with a small DiT^DH: the four trainings of MF-RAE.

    Train in this order: flow_matching, trajectory_regression, mean_flow_distillation,
    mean_flow_tuning. Each one continues from the run before.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019).
    Command: keras-meanflow train digits_rae --set data=STORE
    Data: docs/guide/rae.md shows the two commands that make STORE, 4x4x32 tokens of the digits.
    """
    source = open_source(given(data, "data", "a latent store of keras-meanflow encode --codec rae"))

    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=learning_rate, warmup_steps=min(100, max(steps // 10, 1))
    )
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.95, global_clipnorm=1.0)
    return Task(
        data=source,
        network=functools.partial(
            DiTDH,
            image_size=source.shape[0],
            channels=source.shape[2],
            width=(width, head_width),
            depth=(depth, 1),
            heads=(heads, heads),
            num_classes=10,
            time_inputs=("t",),
        ),
        compile=dict(optimizer=optimizer, jit_compile=jit_compile),
        times=ShiftedUniform(shift=shift),
        solver=Heun(times=shifted_times(25, shift)),
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
