"""A folder of your images."""

import functools

import numpy as np

from keras_meanflow import DiT
from keras_meanflow.data import open_source
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import LogitNormal
from keras_meanflow.recipe import task
from keras_meanflow.training import Task
from keras_meanflow.training.task import given

_DATA = "a folder of images, a folder with a sub-folder of images for each class, or an .npz file"


@task(
    has=("DiT", "noise"),
    every=dict(power=0.5, fraction_r_equals_t=0.5),
    methods={
        "mean_flow": {},
        "improved_mean_flow": dict(
            head_depth=2, class_tokens=2, omega_tokens=1, interval_tokens=1, time_tokens=2
        ),
    },
)
def images(
    *,
    data: str | None = None,
    image_size: int = 32,
    channels: int = 3,
    flip: bool = True,
    seed: int = 0,
    steps: int = 1500,
    batch_size: int = 32,
    optimizer: str = "adam",
    learning_rate: float = 1.5e-3,
    warmup_steps: int = 100,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.998,),
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    patch_size: int = 4,
    sample_every: int | None = 500,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """Your images: a folder of them, with a DiT that a CPU can train.

    The shorter side of each image is resized to image_size, and the middle square is cut out.
    channels is 3 (RGB) or 1 (grey). Sub-folders become classes. flip mirrors half of the images
    from left to right; turn it off for images that may not be mirrored, such as text.

    A larger image_size needs a larger patch_size, or a longer training. A GPU allows more:
    image_size=64, width=384, depth=8, steps=40000.

    Command: keras-meanflow train images --set data=FOLDER
    Data: .png, .jpg, .webp, .bmp, .gif or .tif files; or an .npz file with x_train and y_train.
    Cost: 429 s of processor time with JAX on a 2-core CPU, beside other work, for all steps.
    """
    source = open_source(given(data, "data", _DATA), image_size=image_size, channels=channels)
    return Task(
        data=source,
        network=functools.partial(
            DiT,
            image_size=image_size,
            channels=channels,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=heads,
            num_classes=source.num_classes,
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
        sample_labels=_shown(source.num_classes),
        averages=averages,
        flip=flip,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=8,
        checkpoint_seconds=checkpoint_seconds,
    )


def _shown(classes):
    """Eight samples of each of the first eight classes; 64 samples where there are no labels."""
    return np.repeat(np.arange(min(classes, 8)), 8) if classes else 64
