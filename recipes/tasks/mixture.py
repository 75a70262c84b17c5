"""A mixture of Gaussians with the spectrum of images: a task whose exact answer is known."""

import functools

import numpy as np

from keras_meanflow.data import FreshSamples
from keras_meanflow.networks import MLP
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import LogitNormal
from keras_meanflow.recipe import task
from keras_meanflow.studies import GaussianMixture
from keras_meanflow.training import Task


@task(
    has=("noise",),
    every=dict(power=1.0, fraction_r_equals_t=0.75, label_dropout=0.1),
    methods={"mean_flow": {}},
)
def mixture(
    *,
    seed: int = 0,
    steps: int = 4000,
    batch_size: int = 128,
    optimizer: str = "adam",
    learning_rate: float = 1e-2,
    warmup_steps: int = 200,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.998,),
    width: int = 160,
    depth: int = 3,
    size: int = 64,
    centres: int = 32,
    classes: int = 8,
    decay: float = 1.2,
    between: float = 0.2,
    sample_every: int | None = None,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """32 Gaussians of 8 classes in 64 dimensions, whose variances fall like those of images.

    Its velocity, moments and average velocities are known exactly (`GaussianMixture.like_images`),
    so a study needs no feature network: `keras-meanflow study u-error RUN --truth mixture`. Each
    step draws new samples, so nothing can be memorised. Times and loss are those of the
    paper on ImageNet: p = 1, logit-normal(-0.4, 1), a quarter of rows r < t. The rate falls along
    a cosine: at a constant one, the quality of one-step samples wanders.

    size is the dimension, decay the exponent of the spectrum, between the share of the variance
    that is between the centres. docs/results/improved_training.md is a study on this task.

    Command: keras-meanflow train mixture
    Cost: meant for one CPU core; it was not timed alone.
    """
    law = GaussianMixture.like_images(
        size, centres=centres, classes=classes, decay=decay, between=between
    )
    source = FreshSamples(law.sample)
    network = functools.partial(MLP, data_size=size, width=width, depth=depth, num_classes=classes)
    return Task(
        data=source,
        network=network,
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
        sample_labels=np.arange(1024) % classes,
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        reference=source.take(np.arange(1024))[0],
        checkpoint_seconds=checkpoint_seconds,
    )
