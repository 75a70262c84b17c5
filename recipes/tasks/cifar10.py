"""CIFAR-10 without labels, with the U-Net of the MeanFlow paper."""

import functools

import keras

from keras_meanflow import UNet
from keras_meanflow.data import EDMAugmented, open_source
from keras_meanflow.optimizers import warmed_up
from keras_meanflow.parts import LogitNormal, MaskedThenClamped
from keras_meanflow.recipe import nearest, task
from keras_meanflow.training import Task
from keras_meanflow.training.task import given

LAWS = {
    "logit_normal": LogitNormal(mean=-2.0, std=2.0),
    "masked_then_clamped": MaskedThenClamped(),
}
_DATA = "a file with x_train (n, 32, 32, 3) of uint8 pixels, or a folder of images"


@task(
    has=("noise",),
    every=dict(fraction_r_equals_t=0.25, power=0.75, floor=1e-3),
    methods={
        "mean_flow": {},
        "split_mean_flow": dict(fraction_r_equals_t=0.5),
    },
)
def cifar10(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 800_000,
    batch_size: int = 1024,
    learning_rate: float = 6e-4,
    warmup_steps: int = 10_000,
    averages: tuple[float, ...] = (0.99995, 0.9999, 0.9996),
    width: int = 128,
    multipliers: tuple[int, ...] = (2, 2, 2),
    depth: int = 4,
    dropout: float = 0.2,
    augmentation: float = 0.12,
    times: str = "logit_normal",
    sample_every: int | None = 10_000,
    log_every: int = 100,
    checkpoint_seconds: float = 600.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """CIFAR-10 without labels: EDM's SongUNet on pixels, with the settings of the paper.

    depth is the number of residual blocks per level. Images are augmented as in EDM, and the
    augmentation is an input of the network. times=masked_then_clamped is the later law in the
    authors' code: it draws t and r separately (py-meanflow `cifar10_v1.sh`). The paper has one
    average, 0.99995; the authors' code has two more.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), appendix A.
    Command: keras-meanflow train cifar10 --set data=PATH.npz
    Data: x_train (50000, 32, 32, 3) of uint8, as from keras.datasets.cifar10; labels are not read.
    Cost: not run here. The authors' code takes 47 hours on 8 H200 (0.21 s per step, compiled
        PyTorch).
    """
    if times not in LAWS:
        raise ValueError(f"There is no law of times {times!r}. {nearest(times, LAWS)}")
    rate = warmed_up(learning_rate, steps=steps, warmup_steps=warmup_steps, last_rate=1.0)
    return Task(
        data=functools.partial(_images, data, augmentation),
        network=functools.partial(
            UNet.song,
            image_size=32,
            channels=3,
            width=width,
            multipliers=multipliers,
            blocks=depth,
            dropout=dropout,
        ),
        compile=dict(optimizer=keras.optimizers.Adam(rate), jit_compile=jit_compile),
        times=LAWS[times],
        batch_size=batch_size,
        steps=steps,
        sample_labels=64,
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=8,
        checkpoint_seconds=checkpoint_seconds,
    )


def _images(data, augmentation):
    source = open_source(given(data, "data", _DATA), image_size=32, channels=3)
    return EDMAugmented(source, augmentation)
