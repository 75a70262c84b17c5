"""Digits in the token space of a representation autoencoder: the four stages of MF-RAE."""

import keras
import numpy as np

from keras_meanflow import FlowMap, FlowMatching, Heun
from keras_meanflow.data import open_source
from keras_meanflow.networks import DiTDH
from keras_meanflow.parts import ShiftedUniform
from keras_meanflow.recipe import recipe
from keras_meanflow.samplers import shifted_times
from keras_meanflow.training.stages import distillation_stage, trajectory_stage, tuning_stage
from keras_meanflow.training.training import Training


@recipe
def digits_rae_teacher(
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
    label_dropout: float = 0.1,
    sample_every: int | None = 500,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """The digits as tokens, stage 1 of MF-RAE: flow matching with a small DiT^DH.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019).
    Command: keras-meanflow train digits_rae_teacher --set data=STORE
    Data: docs/rae.md has the two commands that make STORE, 4x4x32 tokens of the digits.
    Expected: one-step digits of accuracy 0.99 and coverage 0.83 after all stages (docs/rae.md).
    """
    if data is None:
        raise ValueError(
            "digits_rae_teacher needs --set data=PATH: a latent store of keras-meanflow encode "
            "--codec rae. Received: None."
        )
    keras.utils.set_random_seed(seed)
    source = open_source(data)
    network = DiTDH(
        image_size=source.shape[0],
        channels=source.shape[2],
        width=(width, head_width),
        depth=(depth, 1),
        heads=(heads, heads),
        num_classes=10,
        time_inputs=("t",),
    )
    times = ShiftedUniform(shift=shift, fraction_r_equals_t=1.0)
    objective = FlowMatching(times=times, label_dropout=label_dropout)
    flow_map = FlowMap(network, objective, averages=averages, horizon=steps, seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=learning_rate, warmup_steps=min(100, max(steps // 10, 1))
    )
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.95, global_clipnorm=1.0)
    flow_map.compile(optimizer, jit_compile=jit_compile)
    return Training(
        flow_map=flow_map,
        data=source,
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.repeat(np.arange(10), 10),
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=10,
        sampler=Heun(times=shifted_times(25, shift)),
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=digits_rae_teacher)
def digits_rae_cmt(
    *,
    teacher: str | None = None,
    steps: int = 600,
    learning_rate: float = 2e-3,
    pairs: int = 4,
    **knobs,
) -> Training:
    """The digits as tokens, stage 2, CMT: the slopes between the states of the teacher's solver.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 3.
    Command: keras-meanflow train digits_rae_cmt --set data=STORE --set teacher=RUN
    """
    training = digits_rae_teacher(steps=steps, learning_rate=learning_rate, **knobs)
    return trajectory_stage(training, teacher, evaluations=15, pairs=pairs)


@recipe(extends=digits_rae_teacher)
def digits_rae_mfd(
    *,
    teacher: str | None = None,
    start: str | None = None,
    steps: int = 600,
    learning_rate: float = 1e-4,
    fraction_r_equals_t: float = 0.5,
    **knobs,
) -> Training:
    """The digits as tokens, stage 3, MFD: MeanFlow along the teacher's velocity, from stage 2.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 4.
    Command: keras-meanflow train digits_rae_mfd --set data=STORE --set teacher=RUN --set start=RUN
    """
    training = digits_rae_teacher(steps=steps, learning_rate=learning_rate, **knobs)
    share = {"fraction_r_equals_t": fraction_r_equals_t}
    return distillation_stage(training, teacher, start, **share)


@recipe(extends=digits_rae_teacher)
def digits_rae_mft(
    *,
    start: str | None = None,
    steps: int = 200,
    learning_rate: float = 1e-4,
    fraction_r_equals_t: float = 0.5,
    **knobs,
) -> Training:
    """The digits as tokens, stage 4, MFT: MeanFlow on the data's own velocities, from stage 3.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 4.
    Command: keras-meanflow train digits_rae_mft --set data=STORE --set start=RUN
    """
    training = digits_rae_teacher(steps=steps, learning_rate=learning_rate, **knobs)
    return tuning_stage(training, start, fraction_r_equals_t=fraction_r_equals_t)
