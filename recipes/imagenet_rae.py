"""ImageNet in the token space of DINOv2: RAE's flow model and the stages of MF-RAE."""

import keras
import numpy as np

from keras_meanflow import FlowMap, FlowMatching
from keras_meanflow.data import open_source
from keras_meanflow.networks import DiTDH
from keras_meanflow.parts import ShiftedUniform
from keras_meanflow.parts.time_laws import dimension_shift
from keras_meanflow.recipe import recipe
from keras_meanflow.samplers import Euler, shifted_times
from keras_meanflow.training.stages import distillation_stage, trajectory_stage, tuning_stage
from keras_meanflow.training.training import Training


@recipe
def imagenet_rae_teacher(
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
    label_dropout: float = 0.1,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 600.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """ImageNet as DINOv2's tokens by class, stage 1 of MF-RAE: flow matching with DiT^DH-XL.

    The authors' weights are published: stages 2 and 3 take the file stage2_model.pt, converted by
    keras-meanflow convert stage2_model.pt teacher.safetensors --from rae. Their rate is constant
    for 40 of 800 epochs and then falls on a line to 2e-5; here it falls from the first step on.

    Paper: Diffusion Transformers with Representation Autoencoders (arXiv 2510.11690).
    Command: keras-meanflow train imagenet_rae_teacher --set data=STORE
    Data: a latent store by --codec rae, 16x16x768 for 256 px, 32x32x768 for 512 px (docs/rae.md).
    Cost: 839 M parameters; 78 H100 days (paper). Not run by this package.
    Expected: FID 1.51 in 50 steps without guidance (paper).
    """
    if data is None:
        raise ValueError(
            "imagenet_rae_teacher needs --set data=PATH: a latent store of keras-meanflow encode "
            "--codec rae. Received: None."
        )
    keras.utils.set_random_seed(seed)
    source = open_source(data)
    network = DiTDH(
        image_size=source.shape[0],
        channels=source.shape[2],
        width=(width, head_width),
        depth=(depth, 2),
        heads=(heads, heads),
        num_classes=1000,
        time_inputs=("t",),
    )
    shift = dimension_shift(source.shape)
    times = ShiftedUniform(shift=shift, fraction_r_equals_t=1.0)
    objective = FlowMatching(times=times, label_dropout=label_dropout)
    flow_map = FlowMap(network, objective, averages=averages, horizon=steps, seed=seed)
    schedule = keras.optimizers.schedules.PolynomialDecay(learning_rate, steps, 0.1 * learning_rate)
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.95, global_clipnorm=1.0)
    flow_map.compile(optimizer, jit_compile=jit_compile)
    return Training(
        flow_map=flow_map,
        data=source,
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.arange(16) * 62,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sampler=Euler(times=shifted_times(50, shift)),
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=imagenet_rae_teacher)
def imagenet_rae_cmt(
    *,
    teacher: str | None = None,
    steps: int = 27_000,
    batch_size: int = 8,
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.999,),
    pairs: int = 64,
    **knobs,
) -> Training:
    """ImageNet as DINOv2's tokens by class, stage 2, CMT: the slopes of the teacher's trajectories.

    At 512 px: pairs=8.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 3.
    Command: keras-meanflow train imagenet_rae_cmt --set data=STORE --set teacher=FILE
    Cost: 2.1 H100 days at 256 px, 8 at 512 px (paper). Not run by this package.
    """
    own = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, averages=averages)
    training = imagenet_rae_teacher(**own, **knobs)
    return trajectory_stage(training, teacher, evaluations=15, pairs=pairs)


@recipe(extends=imagenet_rae_teacher)
def imagenet_rae_mfd(
    *,
    teacher: str | None = None,
    start: str | None = None,
    steps: int = 180_000,
    batch_size: int = 256,
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.9999,),
    **knobs,
) -> Training:
    """ImageNet as DINOv2's tokens by class, stage 3, MFD: MeanFlow along the teacher's velocity.

    At 512 px: steps=20000 batch_size=128 averages=0.9995, and stage 4.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 4.
    Command: keras-meanflow train imagenet_rae_mfd --set data=STORE --set teacher=FILE --set start=R
    Cost: 841 M parameters; 21 H100 days at 256 px (paper). Not run by this package.
    Expected: FID 2.03 in one step and 1.89 in two at 256 px, 3.95 in one step at 512 px (paper).
    """
    own = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, averages=averages)
    training = imagenet_rae_teacher(**own, **knobs)
    return distillation_stage(training, teacher, start, fraction_r_equals_t=0.75)


@recipe(extends=imagenet_rae_teacher)
def imagenet_rae_mft(
    *,
    start: str | None = None,
    steps: int = 10_000,
    batch_size: int = 128,
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.9995,),
    **knobs,
) -> Training:
    """ImageNet as DINOv2's tokens by class, stage 4, MFT: MeanFlow on the data's own velocities.

    At 512 px only, in the paper.

    Paper: MeanFlow Transformers with Representation Autoencoders (arXiv 2511.13019), section 4.
    Command: keras-meanflow train imagenet_rae_mft --set data=STORE --set start=RUN
    Expected: FID 3.23 in one step at 512 px, after stage 3 (paper). Not run by this package.
    """
    own = dict(steps=steps, batch_size=batch_size, learning_rate=learning_rate, averages=averages)
    training = imagenet_rae_teacher(**own, **knobs)
    return tuning_stage(training, start, fraction_r_equals_t=0.75)
