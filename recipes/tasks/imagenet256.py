"""ImageNet at 256x256 in the latent space of the SD autoencoder, as in the papers."""

import functools

import numpy as np

from keras_meanflow import DiT
from keras_meanflow.data import open_source
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import LogitNormal
from keras_meanflow.recipe import task
from keras_meanflow.training import Task
from keras_meanflow.training.task import given

_DATA = (
    "a latent store, or an .npz file with x (n, 32, 32, 4) of float latents scaled by 0.18215 and "
    "y (n,) of labels 0 to 999"
)


# fmt: off
@task(
    has=("DiT", "noise"),
    sizes={  # Mean Flows, table 4
        "b4":  dict(patch_size=4, depth=12, width=768,  heads=12, steps=400_000,   omega=1.0, kappa=0.5,  guidance_end=1.0),
        "b2":  dict(patch_size=2, depth=12, width=768,  heads=12, steps=1_200_000, omega=1.0, kappa=0.5,  guidance_end=1.0),
        "l2":  dict(patch_size=2, depth=24, width=1024, heads=16, steps=1_200_000, omega=0.2, kappa=0.92, guidance_end=0.8),
        "xl2": dict(patch_size=2, depth=28, width=1152, heads=16, steps=1_200_000, omega=0.2, kappa=0.92, guidance_end=0.75),
    },
    methods={
        "mean_flow": {},
        "progressive_mean_flow":     dict(gamma=None, stages=20),
        "progressive_mean_flow b4":  dict(gamma=5.0, stages=None),
        "progressive_mean_flow b2":  dict(gamma=5.0, stages=None),
        # AlphaFlow, table 3; its floor is 1e-3 of the mean over the 4096 numbers of a latent.
        "alpha_flow":     dict(fraction_r_equals_t=0.25, floor=4.096, clip=4.0, global_clipnorm=16.0),
        "alpha_flow xl2": dict(fraction_r_equals_t=0.5, begin=0.5, until=0.8333),
        # Improved Mean Flows, table 4 of the appendix: 640 epochs.
        "improved_mean_flow": dict(steps=800_729, batch_size=1024, warmup_steps=12_511, largest=8.0,
                                   sample_scale=8.0, sample_from=0.4, sample_until=0.65),
        # Decoupled MeanFlow: 80 epochs from a flow model.
        "decoupled_mean_flow":     dict(steps=400_000, split_depth=8, omega=1.0, kappa=0.6, guidance_end=0.7, global_clipnorm=1.0),
        "decoupled_mean_flow l2":  dict(split_depth=18),
        "decoupled_mean_flow xl2": dict(split_depth=20),
        "re_mean_flow": dict(steps=50_000, batch_size=128),
        "re_mean_flow_guided": dict(steps=50_000, batch_size=128, largest_scale=3.0),
    },
)
# fmt: on
def imagenet256(
    *,
    size: str = "b4",
    data: str | None = None,
    seed: int = 0,
    steps: int = 1_200_000,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float = 1e-4,
    warmup_steps: int = 0,
    global_clipnorm: float | None = None,
    averages: tuple[float, ...] = (0.9999,),
    patch_size: int = 2,
    depth: int = 12,
    width: int = 768,
    heads: int = 12,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Task:
    """ImageNet 256x256, class-conditional, with DiT-B/4, B/2, L/2 or XL/2.

    Guidance is in the target. The optimizer is Adam (0.9, 0.95); after warmup_steps the learning
    rate is constant.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), table 4: 80 epochs for
        b4, 240 for the others.
    Command: keras-meanflow train imagenet256 --size xl2 --set data=PATH
    Data: a latent store of the SD autoencoder (ft-mse; docs/guide/latents.md), which also decodes the
        samples; or x (n, 32, 32, 4), latents scaled by 0.18215, and y (n,).
    Cost of a forward pass: b4 131 M parameters, 5.6 GFLOPs; b2 131 M, 23.1; l2 459 M, 80.9; xl2
        676 M, 119. b4 takes 0.052 s per step without guidance on a TPU v4-8 (paper).
    """
    del size  # it chooses a row of the table, which gives the other settings
    return Task(
        data=functools.partial(_latents, data),
        network=functools.partial(
            DiT,
            image_size=32,
            channels=4,
            patch_size=patch_size,
            width=width,
            depth=depth,
            heads=heads,
            num_classes=1000,
            time_inputs=("t", "t-r"),
        ),
        compile=compile_with(
            optimizer,
            learning_rate,
            width=width,
            steps=steps if warmup_steps else None,
            warmup_steps=warmup_steps,
            last_rate=1.0,
            beta_2=0.95,
            global_clipnorm=global_clipnorm,
            jit_compile=jit_compile,
        ),
        times=LogitNormal(mean=-0.4, std=1.0),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.arange(0, 1000, 40),
        averages=averages,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )


def _latents(data):
    return open_source(given(data, "data", _DATA), image_size=32, channels=4)
