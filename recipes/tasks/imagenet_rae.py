"""ImageNet in the token space of DINOv2."""

import functools

import keras
import numpy as np

from keras_meanflow.data import open_source
from keras_meanflow.networks import DiTDH
from keras_meanflow.parts import ShiftedUniform, dimension_shift
from keras_meanflow.recipe import task
from keras_meanflow.samplers import Euler, shifted_times
from keras_meanflow.training import Task
from keras_meanflow.training.task import given


@task(
    has=("noise",),
    methods={
        "flow_matching": {},
        "trajectory_regression": dict(
            steps=27_000, batch_size=8, learning_rate=1e-4, averages=(0.999,)
        ),
        "mean_flow_distillation": dict(
            steps=180_000, batch_size=256, learning_rate=1e-4, averages=(0.9999,)
        ),
        "mean_flow_tuning": dict(
            steps=10_000, batch_size=128, learning_rate=1e-4, averages=(0.9995,)
        ),
    },
)
def imagenet_rae(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 1_000_000,
    batch_size: int = 1024,
    learning_rate: float = 2e-4,
    averages: tuple[float, ...] = (0.9995,),
    width: int = 1152,
    head_width: int = 2048,
    depth: int = 28,
    heads: int = 16,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 600.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """ImageNet as tokens of DINOv2, class-conditional, with DiT^DH-XL: the trainings of MF-RAE.

    Train in this order: flow_matching, trajectory_regression, mean_flow_distillation and, at 512
    px, mean_flow_tuning. The authors published their flow model, stage2_model.pt. To use it as the
    teacher, convert it: keras-meanflow convert stage2_model.pt teacher.safetensors --from rae.
    Their learning rate is constant for 40 of 800 epochs and then falls linearly to 2e-5; here it
    falls from the first step on.

    Paper: Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690).
    Command: keras-meanflow train imagenet_rae --set data=STORE
    Data: a latent store of --codec rae: 16x16x768 for 256 px, 32x32x768 for 512 px
        (docs/guide/rae.md).
    Cost: 839 M parameters; 78 H100 days (paper). We did not run it.
    """
    source = open_source(given(data, "data", "a latent store of keras-meanflow encode --codec rae"))
    shift = dimension_shift(source.shape)
    schedule = keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.1 * learning_rate)
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.95, global_clipnorm=1.0)
    return Task(
        data=source,
        network=functools.partial(
            DiTDH,
            image_size=source.shape[0],
            channels=source.shape[2],
            width=(width, head_width),
            depth=(depth, 2),
            heads=(heads, heads),
            num_classes=1000,
            time_inputs=("t",),
        ),
        compile=dict(optimizer=optimizer, jit_compile=jit_compile),
        times=ShiftedUniform(shift=shift),
        solver=Euler(times=shifted_times(50, shift)),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.arange(16) * 62,
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )
