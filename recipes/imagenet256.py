"""ImageNet at 256x256 in the latent space of the SD autoencoder, as in the papers."""

import keras
import numpy as np

from keras_meanflow import DiT, FlowMap, Guidance, LogitNormal, MeanFlow
from keras_meanflow.data import open_source
from keras_meanflow.flow_map.curriculum import improve
from keras_meanflow.formats.conversion import load_network
from keras_meanflow.optimizers import compile_with, warmed_up
from keras_meanflow.parts import AdaptiveLoss, MeanAdaptiveLoss
from keras_meanflow.recipe import recipe
from keras_meanflow.training.training import Training
from keras_meanflow.training.variants import alpha, decoupled, improved, rectified


@recipe
def imagenet256_dit_b4(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 400_000,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.9999,),
    patch_size: int = 4,
    depth: int = 12,
    width: int = 768,
    heads: int = 12,
    omega: float = 1.0,
    kappa: float = 0.5,
    guidance_end: float = 1.0,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """ImageNet 256x256 by class with DiT-B/4: 80 epochs, guidance in the target.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), table 4.
    Command: keras-meanflow train imagenet256_dit_b4 --set data=PATH
    Data: a latent store of the SD autoencoder (ft-mse; docs/latents.md), which the samples are
        decoded with; or x (n, 32, 32, 4), latents scaled by 0.18215, and y (n,).
    Cost: 131 M parameters, 5.6 GFLOPs a forward pass; without guidance 0.052 s a step on a TPU
        v4-8 (paper).
    Expected: FID of 50,000 one-step samples 19.15 in the paper, table 5; 18.70 by the authors'
        code.
    """
    return _imagenet256(
        data=data,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        averages=averages,
        patch_size=patch_size,
        depth=depth,
        width=width,
        heads=heads,
        guidance=Guidance(omega=omega, kappa=kappa, end=guidance_end),
        sample_every=sample_every,
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
        jit_compile=jit_compile,
    )


@recipe
def imagenet256_dit_b2(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 1_200_000,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.9999,),
    patch_size: int = 2,
    depth: int = 12,
    width: int = 768,
    heads: int = 12,
    omega: float = 1.0,
    kappa: float = 0.5,
    guidance_end: float = 1.0,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """ImageNet 256x256 by class with DiT-B/2: 240 epochs, guidance in the target.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), table 4.
    Command: keras-meanflow train imagenet256_dit_b2 --set data=PATH
    Data: a latent store of the SD autoencoder (ft-mse; docs/latents.md), which the samples are
        decoded with; or x (n, 32, 32, 4), latents scaled by 0.18215, and y (n,).
    Cost: 131 M parameters, 23.1 GFLOPs a forward pass.
    Expected: FID of 50,000 one-step samples 6.17 in the paper, table 2.
    """
    return _imagenet256(
        data=data,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        averages=averages,
        patch_size=patch_size,
        depth=depth,
        width=width,
        heads=heads,
        guidance=Guidance(omega=omega, kappa=kappa, end=guidance_end),
        sample_every=sample_every,
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
        jit_compile=jit_compile,
    )


@recipe
def imagenet256_dit_l2(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 1_200_000,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.9999,),
    patch_size: int = 2,
    depth: int = 24,
    width: int = 1024,
    heads: int = 16,
    omega: float = 0.2,
    kappa: float = 0.92,
    guidance_end: float = 0.8,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """ImageNet 256x256 by class with DiT-L/2: 240 epochs, guidance in the target.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), table 4.
    Command: keras-meanflow train imagenet256_dit_l2 --set data=PATH
    Data: a latent store of the SD autoencoder (ft-mse; docs/latents.md), which the samples are
        decoded with; or x (n, 32, 32, 4), latents scaled by 0.18215, and y (n,).
    Cost: 459 M parameters, 80.9 GFLOPs a forward pass.
    Expected: FID of 50,000 one-step samples 3.84 in the paper, table 2.
    """
    return _imagenet256(
        data=data,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        averages=averages,
        patch_size=patch_size,
        depth=depth,
        width=width,
        heads=heads,
        guidance=Guidance(omega=omega, kappa=kappa, end=guidance_end),
        sample_every=sample_every,
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
        jit_compile=jit_compile,
    )


@recipe
def imagenet256_dit_xl2(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 1_200_000,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float = 1e-4,
    averages: tuple[float, ...] = (0.9999,),
    patch_size: int = 2,
    depth: int = 28,
    width: int = 1152,
    heads: int = 16,
    omega: float = 0.2,
    kappa: float = 0.92,
    guidance_end: float = 0.75,
    sample_every: int | None = 10_000,
    log_every: int = 500,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """ImageNet 256x256 by class with DiT-XL/2: 240 epochs, guidance in the target.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447), table 4.
    Command: keras-meanflow train imagenet256_dit_xl2 --set data=PATH
    Data: a latent store of the SD autoencoder (ft-mse; docs/latents.md), which the samples are
        decoded with; or x (n, 32, 32, 4), latents scaled by 0.18215, and y (n,).
    Cost: 676 M parameters, 119 GFLOPs a forward pass.
    Expected: FID of 50,000 one-step samples 3.43 in the paper, table 2.
    """
    return _imagenet256(
        data=data,
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        learning_rate=learning_rate,
        averages=averages,
        patch_size=patch_size,
        depth=depth,
        width=width,
        heads=heads,
        guidance=Guidance(omega=omega, kappa=kappa, end=guidance_end),
        sample_every=sample_every,
        log_every=log_every,
        checkpoint_seconds=checkpoint_seconds,
        jit_compile=jit_compile,
    )


@recipe(extends=imagenet256_dit_b4)
def imagenet256_dit_b4_improved(**knobs) -> Training:
    """imagenet256_dit_b4 by the improved training: MinSNR weights, short to long gaps.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065). Its
        code is not public; what the notes leave open is said in `EasyFirst` and `MinSNRVelocity`.
    Command: keras-meanflow train imagenet256_dit_b4_improved --set data=PATH
    Cost: that of imagenet256_dit_b4.
    Expected: FID of 50,000 one-step samples 9.87 (11.58 without) in the paper, after
        240 epochs: steps=1_200_000.
    """
    return improve(imagenet256_dit_b4(**knobs), gamma=5.0)


@recipe(extends=imagenet256_dit_l2)
def imagenet256_dit_l2_improved(**knobs) -> Training:
    """imagenet256_dit_l2 by the improved training: easy times, then short to long gaps.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065). Its
        code is not public; what the notes leave open is said in `EasyFirst` and `MinSNRVelocity`.
    Command: keras-meanflow train imagenet256_dit_l2_improved --set data=PATH
    Cost: that of imagenet256_dit_l2.
    Expected: FID of 50,000 one-step samples 3.47 (3.84 without) in the paper.
    """
    return improve(imagenet256_dit_l2(**knobs), gamma=None, stages=20)


@recipe(extends=imagenet256_dit_xl2)
def imagenet256_dit_xl2_improved(**knobs) -> Training:
    """imagenet256_dit_xl2 by the improved training: easy times, then short to long gaps.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065). Its
        code is not public; what the notes leave open is said in `EasyFirst` and `MinSNRVelocity`.
    Command: keras-meanflow train imagenet256_dit_xl2_improved --set data=PATH
    Cost: that of imagenet256_dit_xl2.
    Expected: FID of 50,000 one-step samples 2.87 (3.43 without) in the paper.
    """
    return improve(imagenet256_dit_xl2(**knobs), gamma=None, stages=20)


@recipe(extends=imagenet256_dit_xl2)
def imagenet256_dmf_xl2(
    *,
    flow: str | None = None,
    split_depth: int = 20,
    steps: int = 400_000,
    omega: float = 1.0,
    kappa: float = 0.6,
    guidance_end: float = 0.7,
    **knobs,
) -> Training:
    """ImageNet 256x256 by class with DMF-XL/2: 80 epochs from a flow model, model guidance.

    flow is a file of a SiT-XL/2 whose time 1 is noise, as REPA's or dmf's own; None starts from
    nothing. kappa is the paper's omega. The loss is the paper's; the published models were trained
    with `ReleasedLogMSE`.

    Paper: Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf scripts/train_dmf_xl_2_256.sh.
    Command: keras-meanflow train imagenet256_dmf_xl2 --set data=PATH --set flow=sit_xl_2_256.pt
    Cost: 676 M parameters, 11 forward passes of 119 GFLOPs a step and image.
    Expected: FID of 50,000 samples 2.16 in one step, 1.64 in two, 1.51 in four in the paper,
        from a flow model of 4 M steps; sample with --steps 1, 2, 4.
    """
    training = imagenet256_dit_xl2(
        steps=steps, omega=omega, kappa=kappa, guidance_end=guidance_end, **knobs
    )
    training.flow_map.optimizer.global_clipnorm = 1.0
    start = None if flow is None else load_network(flow, "dmf", split_depth=None)
    return decoupled(training, split_depth=split_depth, flow=start)


@recipe(extends=imagenet256_dit_xl2)
def imagenet256_reflow_xl2(
    *,
    data: str | None = None,
    percentile: float = 90.0,
    start: str | None = None,
    largest_scale: float = 1.0,
    steps: int = 50_000,
    batch_size: int = 128,
    **knobs,
) -> Training:
    """ImageNet 256x256 by class with Re-MeanFlow of SiT-XL/2, on the teacher's pairs.

    start is a run to go on with: a converted SiT with an interval in the first stage
    (docs/weights.md), the first stage in the second, which has largest_scale=3.

    Paper: Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342), table 4, for which there is
        no code at this size.
    Command: keras-meanflow train imagenet256_reflow_xl2 --set data=PAIRS
    Data: 5 M pairs of SiT-XL/2 with guidance, by keras-meanflow reflow.
    Cost: 676 M parameters, 119 GFLOPs a forward pass, two stages.
    Expected: FID of 50,000 one-step samples 3.41 in the paper.
    """
    settings = dict(percentile=percentile, start=start, largest_scale=largest_scale)
    base = imagenet256_dit_xl2(data=data, steps=steps, batch_size=batch_size, **knobs)
    return rectified(base, data, **settings)


@recipe(extends=imagenet256_dit_b2)
def imagenet256_alpha_b2(
    *,
    begin: float = 0.0,
    until: float = 1.0,
    fraction_r_equals_t: float = 0.25,
    **knobs,
) -> Training:
    """ImageNet 256x256 by class with AlphaFlow and DiT-B/2: 240 epochs, guidance in the target.

    Paper: AlphaFlow (arXiv 2510.20771), table 3; the network is told (t, t - r), theirs (t, r).
    Command: keras-meanflow train imagenet256_alpha_b2 --set data=PATH
    Cost: 131 M parameters, 23.1 GFLOPs a forward pass.
    Expected: FID of 50,000 one-step samples 5.40 in the paper (MeanFlow: 6.04), two steps 5.01.
    """
    training = imagenet256_dit_b2(**knobs)
    return _alpha(training, begin, until, fraction_r_equals_t)


@recipe(extends=imagenet256_dit_xl2)
def imagenet256_alpha_xl2(
    *,
    begin: float = 0.5,
    until: float = 0.8333,
    fraction_r_equals_t: float = 0.5,
    **knobs,
) -> Training:
    """ImageNet 256x256 by class with AlphaFlow and DiT-XL/2: 240 epochs, guidance in the target.

    Paper: AlphaFlow (arXiv 2510.20771), table 3; the network is told (t, t - r), theirs (t, r).
    Command: keras-meanflow train imagenet256_alpha_xl2 --set data=PATH
    Cost: 676 M parameters, 119 GFLOPs a forward pass.
    Expected: FID of 50,000 one-step samples 2.95 in the paper (MeanFlow: 3.47), two steps 2.34.
    """
    training = imagenet256_dit_xl2(**knobs)
    return _alpha(training, begin, until, fraction_r_equals_t)


def _alpha(training, begin, until, fraction_r_equals_t):
    """Table 3 and the released configuration: mean error, targets clipped at 4, norms at 16."""
    training.flow_map.optimizer.global_clipnorm = 16.0
    return alpha(
        training,
        begin=begin,
        until=until,
        times=LogitNormal(fraction_r_equals_t=fraction_r_equals_t),
        loss=MeanAdaptiveLoss(p=1.0, c=1e-3),
        clip=4.0,
    )


@recipe(extends=imagenet256_dit_b2)
def imagenet256_imf_b2(
    *,
    steps: int = 800_729,
    batch_size: int = 1024,
    warmup_steps: int = 12_511,
    head_depth: int = 8,
    largest: float = 8.0,
    beta: float = 1.0,
    fraction_r_equals_t: float = 0.5,
    **knobs,
) -> Training:
    """ImageNet 256x256 by class with improved MeanFlow, iMF-B/2: 640 epochs, guidance as an input.

    Paper: Improved Mean Flows (arXiv 2512.02012), table 4 of the appendix. omega, kappa and
        guidance_end are MeanFlow's and are not used.
    Command: keras-meanflow train imagenet256_imf_b2 --set data=PATH
    Cost: 89 M parameters without the second head, 24.9 GFLOPs a forward pass.
    Expected: FID of 50,000 one-step samples 3.39 in the paper, labels in turn, guidance 8 on
        [0.4, 0.65], which the pictures have too.
    """
    training = imagenet256_dit_b2(steps=steps, batch_size=batch_size, **knobs)
    optimizer = training.flow_map.optimizer
    rate = float(optimizer.learning_rate)
    optimizer.learning_rate = warmed_up(rate, steps=steps, warmup_steps=warmup_steps, last_rate=1.0)
    return improved(
        training,
        head_depth=head_depth,
        largest=largest,
        beta=beta,
        times=LogitNormal(fraction_r_equals_t=fraction_r_equals_t),
        guidance={"omega": 8.0, "t_min": 0.4, "t_max": 0.65},
    )


def _imagenet256(
    *,
    data,
    seed,
    steps,
    batch_size,
    optimizer,
    learning_rate,
    averages,
    patch_size,
    depth,
    width,
    heads,
    guidance,
    sample_every,
    log_every,
    checkpoint_seconds,
    jit_compile,
):
    """What the four have in common: Adam (0.9, 0.95) at a constant rate, 25 % of rows r < t."""
    if data is None:
        raise ValueError(
            "imagenet256 needs --set data=PATH: a latent store, or an .npz file with x "
            "(n, 32, 32, 4) of float latents scaled by 0.18215 and y (n,) of labels 0 to 999. "
            "Received: None."
        )
    keras.utils.set_random_seed(seed)
    network = DiT(
        image_size=32,
        channels=4,
        patch_size=patch_size,
        width=width,
        depth=depth,
        heads=heads,
        num_classes=1000,
        time_inputs=("t", "t-r"),
    )
    objective = MeanFlow(
        times=LogitNormal(mean=-0.4, std=1.0, fraction_r_equals_t=0.75),
        loss=AdaptiveLoss(p=1.0, c=0.01),
        guidance=guidance,
        label_dropout=0.1,
    )
    flow_map = FlowMap(network, objective, averages=averages, horizon=steps, seed=seed)
    flow_map.compile(
        **compile_with(optimizer, learning_rate, width=width, beta_2=0.95, jit_compile=jit_compile)
    )
    return Training(
        flow_map=flow_map,
        data=open_source(data, image_size=32, channels=4),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.arange(0, 1000, 40),
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        checkpoint_seconds=checkpoint_seconds,
    )
