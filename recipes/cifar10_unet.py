"""CIFAR-10 without labels in one step, by the U-Net of the MeanFlow paper."""

import keras

from keras_meanflow import FlowMap, LogitNormal, MeanFlow, UNet
from keras_meanflow.data import EDMAugmented, open_source
from keras_meanflow.optimizers import warmed_up
from keras_meanflow.parts import AdaptiveLoss, MaskedThenClamped
from keras_meanflow.recipe import recipe
from keras_meanflow.training.training import Training


@recipe
def cifar10_unet(
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
    fraction_r_equals_t: float = 0.25,
    sample_every: int | None = 10_000,
    log_every: int = 100,
    checkpoint_seconds: float = 600.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """CIFAR-10 without labels, EDM's SongUNet on pixels, the settings of the paper.

    `depth` is the number of residual blocks of a level. Images are augmented as EDM does it and
    the network is told how. The paper keeps the average 0.99995; the authors' code two more.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), appendix A.
    Command: keras-meanflow train cifar10_unet --set data=PATH.npz
    Data: x_train (50000, 32, 32, 3) of uint8, as from keras.datasets.cifar10; labels are not read.
    Cost: not run here. The authors' takes 47 hours on 8 H200 (0.21 s a step, compiled PyTorch).
    Expected: FID 2.92 in one step (paper).
    """
    if data is None:
        raise ValueError(
            "cifar10_unet needs --set data=PATH.npz: a file with x_train (n, 32, 32, 3) of uint8 "
            "pixels, or a folder of images. Received: None."
        )
    keras.utils.set_random_seed(seed)
    network = UNet.song(
        image_size=32,
        channels=3,
        width=width,
        multipliers=multipliers,
        blocks=depth,
        dropout=dropout,
    )
    objective = MeanFlow(
        times=LogitNormal(mean=-2.0, std=2.0, fraction_r_equals_t=fraction_r_equals_t),
        loss=AdaptiveLoss(p=0.75, c=1e-3),
    )
    flow_map = FlowMap(network, objective, averages=averages, horizon=steps, seed=seed)
    rate = warmed_up(learning_rate, steps=steps, warmup_steps=warmup_steps, last_rate=1.0)
    flow_map.compile(keras.optimizers.Adam(rate), jit_compile=jit_compile)
    return Training(
        flow_map=flow_map,
        data=EDMAugmented(open_source(data, image_size=32, channels=3), augmentation),
        batch_size=batch_size,
        steps=steps,
        sample_labels=64,
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=8,
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=cifar10_unet)
def cifar10_unet_v1(**knobs) -> Training:
    """CIFAR-10 with the later law of the times, from the authors' code: t and r drawn apart.

    Paper: none; Gsunshine/py-meanflow `cifar10_v1.sh`.
    Command: keras-meanflow train cifar10_unet_v1 --set data=PATH.npz
    Cost: that of cifar10_unet.
    Expected: FID about 2.9 in one step, 2.80 the best checkpoint (py-meanflow's README).
    """
    training = cifar10_unet(**knobs)
    flow_map = training.flow_map
    share = flow_map.objective.times.fraction_r_equals_t
    times = MaskedThenClamped(fraction_r_equals_t=share)
    flow_map.set_objective(MeanFlow(times=times, loss=flow_map.objective.loss))
    return training
