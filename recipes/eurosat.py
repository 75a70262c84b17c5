"""Satellite images from noise in one step."""

import keras
import numpy as np

from keras_meanflow import DiT, FlowMap, LogitNormal, MeanFlow
from keras_meanflow.data import open_source
from keras_meanflow.flow_map.curriculum import improve
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import AdaptiveLoss
from keras_meanflow.recipe import recipe
from keras_meanflow.training.training import Training


@recipe
def eurosat(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 40_000,
    batch_size: int = 128,
    optimizer: str = "adam",
    learning_rate: float = 3e-4,
    warmup_steps: int = 1000,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.9998,),
    width: int = 384,
    depth: int = 8,
    heads: int = 6,
    patch_size: int = 4,
    fraction_r_equals_t: float = 0.5,
    power: float = 1.0,
    label_dropout: float = 0.1,
    sample_every: int | None = 1000,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """EuroSAT, 32x32 in colour, ten kinds of land by class, with a DiT of patches of 4.

    learning_rate is Adam's; optimizer=splus takes 2 width learning_rate (docs/splus.md), adam-bf16
    keeps its momentum in bfloat16. last_rate is the share of it that is left at the end; 1 for a
    constant rate. power is the adaptive loss's p.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447); the data is EuroSAT
    (arXiv 1709.00029).
    Command: keras-meanflow train eurosat --set data=PATH.npz
    Data: x_train (n, 32, 32, 3) of uint8 and y_train (n,); or a folder with a sub-folder a class.
    Cost: meant for a GPU.
    """
    if data is None:
        raise ValueError(
            "eurosat needs --set data=PATH: an .npz file with x_train (n, 32, 32, 3) of uint8 "
            "pixels and y_train (n,) of labels 0 to 9, or a folder with a sub-folder of images "
            "for each class. Received: None."
        )
    keras.utils.set_random_seed(seed)
    network = DiT(
        image_size=32,
        channels=3,
        patch_size=patch_size,
        width=width,
        depth=depth,
        heads=heads,
        num_classes=10,
    )
    objective = MeanFlow(
        times=LogitNormal(fraction_r_equals_t=fraction_r_equals_t),
        loss=AdaptiveLoss(p=power),
        label_dropout=label_dropout,
    )
    flow_map = FlowMap(network, objective, averages=averages, horizon=steps, seed=seed)
    flow_map.compile(
        **compile_with(
            optimizer,
            learning_rate,
            width=width,
            steps=steps,
            warmup_steps=warmup_steps,
            last_rate=last_rate,
            jit_compile=jit_compile,
        )
    )
    return Training(
        flow_map=flow_map,
        data=open_source(data, image_size=32, channels=3),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.repeat(np.arange(10), 10),
        seed=seed,
        flip=True,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=10,
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=eurosat)
def eurosat_improved(
    *,
    gamma: float | None = 5.0,
    exponent: float | None = 1.0,
    stages: int | None = None,
    patience: int = 200,
    **knobs,
) -> Training:
    """EuroSAT by the improved training: velocity first, then from short to long intervals.

    MinSNR weights (gamma) on rows with r = t, weights by the gap (exponent) on rows with r < t;
    `stages=20 gamma=none` is the other variant, easy times first. None turns a part off.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065).
    Command: keras-meanflow train eurosat_improved --set data=PATH.npz
    Cost: that of eurosat.
    """
    scheme = dict(gamma=gamma, exponent=exponent, stages=stages, patience=patience)
    return improve(eurosat(**knobs), **scheme)
