"""MNIST from noise in one step."""

import keras
import numpy as np

from keras_meanflow import DiT, FlowMap, FlowMatching, Heun, LogitNormal, MeanFlow
from keras_meanflow.data import open_source
from keras_meanflow.flow_map.curriculum import improve
from keras_meanflow.optimizers import compile_with
from keras_meanflow.parts import AdaptiveLoss
from keras_meanflow.recipe import recipe
from keras_meanflow.training.run import trained_network
from keras_meanflow.training.training import Training
from keras_meanflow.training.variants import (
    alpha,
    consistent,
    decoupled,
    improved,
    rectified,
    split,
)


@recipe
def mnist(
    *,
    data: str | None = None,
    seed: int = 0,
    steps: int = 15_000,
    batch_size: int = 32,
    optimizer: str = "adam",
    learning_rate: float = 4e-3,
    warmup_steps: int = 200,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.999,),
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    patch_size: int = 7,
    fraction_r_equals_t: float = 0.5,
    power: float = 1.0,
    label_dropout: float = 0.1,
    sample_every: int | None = 1000,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """MNIST, 28x28, by class, with a small DiT of 16 patches.

    learning_rate is Adam's; optimizer=splus takes 2 width learning_rate (docs/splus.md), adam-bf16
    keeps its momentum in bfloat16. last_rate is the share of it that is left at the end; 1 for a
    constant rate. power is the adaptive loss's p.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447).
    Command: keras-meanflow train mnist --set data=PATH.npz
    Data: x_train (60000, 28, 28) of uint8 and y_train (60000,), as in Keras' mnist.npz.
    Cost: 981 s on one core of a 2-core CPU, busy otherwise, with JAX.
    Expected: LeNet-FID of 10,000 samples 39.2 in one step, 4.7 in two, 3.3 in four. A GPU allows
        more tokens and images a step: 7.5, 1.9, 1.4 (docs/improved_training.md).
    """
    if data is None:
        raise ValueError(
            "mnist needs --set data=PATH.npz: a file with x_train (n, 28, 28) of uint8 pixels and "
            "y_train (n,) of labels 0 to 9. Received: None."
        )
    keras.utils.set_random_seed(seed)
    network = DiT(
        image_size=28,
        channels=1,
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
            beta_2=0.99,
            jit_compile=jit_compile,
        )
    )
    return Training(
        flow_map=flow_map,
        data=open_source(data, image_size=28, channels=1),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.repeat(np.arange(10), 10),
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=10,
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=mnist)
def mnist_improved(
    *,
    gamma: float | None = 5.0,
    exponent: float | None = 1.0,
    stages: int | None = None,
    patience: int = 200,
    **knobs,
) -> Training:
    """MNIST by the improved training: velocity first, then from short to long intervals.

    MinSNR weights (gamma) on rows with r = t, weights by the gap (exponent) on rows with r < t;
    `stages=20 gamma=none` is the other variant, easy times first. None turns a part off.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065).
    Command: keras-meanflow train mnist_improved --set data=PATH.npz
    Cost: that of mnist.
    """
    scheme = dict(gamma=gamma, exponent=exponent, stages=stages, patience=patience)
    return improve(mnist(**knobs), **scheme)


@recipe(extends=mnist)
def mnist_flow(**knobs) -> Training:
    """MNIST by flow matching: a velocity for many steps, and a teacher for other methods.

    Paper: Flow Matching for Generative Modeling (arXiv 2210.02747).
    Command: keras-meanflow train mnist_flow --set data=PATH.npz
    Cost: three quarters of that of mnist.
    """
    training = mnist(**knobs)
    objective = FlowMatching(label_dropout=training.flow_map.objective.label_dropout)
    return training.with_objective(objective, sampler=Heun(steps=25))


@recipe(extends=mnist)
def mnist_dmf(
    *,
    flow: str | None = None,
    split_depth: int = 3,
    steps: int = 7500,
    **knobs,
) -> Training:
    """MNIST by Decoupled MeanFlow: flow matching and MeanFlow on every row; late blocks see r.

    flow is the directory of a run of mnist_flow to start from; None starts from nothing.

    Paper: Decoupled MeanFlow (arXiv 2510.24474).
    Command: keras-meanflow train mnist_dmf --set data=PATH.npz
    Cost: that of mnist, whose steps take half as long.
    """
    start = None if flow is None else trained_network(flow)
    return decoupled(mnist(steps=steps, **knobs), split_depth=split_depth, flow=start)


@recipe(extends=mnist)
def mnist_reflow(
    *,
    data: str | None = None,
    percentile: float = 90.0,
    start: str | None = None,
    largest_scale: float = 1.0,
    **knobs,
) -> Training:
    """MNIST by Re-MeanFlow: MeanFlow on the straightened lines of a teacher's pairs.

    The second stage, guided by a random scale, goes on with the first: start=runs/mnist_reflow
    largest_scale=2.5, and --run.

    Paper: Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342).
    Command: keras-meanflow train mnist_reflow --set data=PAIRS
    Data: keras-meanflow reflow runs/mnist_flow PAIRS -n 60000 (docs/re_mean_flow.md).
    Cost: that of mnist, after the teacher and its pairs.
    """
    settings = dict(percentile=percentile, start=start, largest_scale=largest_scale)
    return rectified(mnist(data=data, **knobs), data, **settings)


@recipe(extends=mnist)
def mnist_flow_consist(
    *,
    rectification: float = 0.5,
    begin: float = 0.4,
    steps: int = 7500,
    **knobs,
) -> Training:
    """MNIST by FlowConsist: du/dt along the own velocity, samples pushed onto the data.

    rectification is the weight of the push, from the share begin of the steps on. A second network
    of the same size learns the velocity of the samples.

    Paper: FlowConsist (arXiv 2602.06346), reconstructed (see `FlowConsist`).
    Command: keras-meanflow train mnist_flow_consist --set data=PATH.npz
    Cost: two thirds more than that of mnist, whose steps take a third as long.
    """
    training = mnist(steps=steps, **knobs)
    return consistent(training, rectification=rectification, begin=begin)


@recipe(extends=mnist)
def mnist_split(
    *,
    teacher: str | None = None,
    teacher_scale: float = 1.0,
    **knobs,
) -> Training:
    """MNIST by SplitMeanFlow: each interval is made of its two parts, without a derivative.

    teacher is the directory of a run of mnist_flow: its velocity takes the data's place, and the
    student starts from its weights. teacher_scale guides it, if labels were dropped in its
    training (label_dropout=0.1).

    Paper: SplitMeanFlow (arXiv 2507.16884), which has no images.
    Command: keras-meanflow train mnist_split --set data=PATH.npz
    Cost: that of mnist.
    Expected: docs/methods.md.
    """
    return split(mnist(**knobs), teacher=teacher, scale=teacher_scale)


@recipe(extends=mnist)
def mnist_alpha(*, begin: float = 0.0, until: float = 1.0, **knobs) -> Training:
    """MNIST by AlphaFlow: from trajectory flow matching to MeanFlow between begin and until.

    Paper: AlphaFlow (arXiv 2510.20771).
    Command: keras-meanflow train mnist_alpha --set data=PATH.npz
    Cost: three quarters of that of mnist at first, that of mnist in the end.
    Expected: docs/methods.md.
    """
    return alpha(mnist(**knobs), begin=begin, until=until)


@recipe(extends=mnist)
def mnist_imf(*, head_depth: int = 2, largest: float = 1.0, **knobs) -> Training:
    """MNIST by improved MeanFlow: du/dt along the velocity of a second head.

    The condition and t - r are tokens of the sequence (`InContextDiT`). With largest above 1 the
    network learns to be told a guidance scale up to that; it needs label_dropout=0.1 then.

    Paper: Improved Mean Flows (arXiv 2512.02012).
    Command: keras-meanflow train mnist_imf --set data=PATH.npz
    Cost: three times that of mnist: 22 tokens for 16, and the second head.
    Expected: docs/methods.md.
    """
    few = dict(class_tokens=2, omega_tokens=1, interval_tokens=1, time_tokens=2)
    return improved(mnist(**knobs), head_depth=head_depth, largest=largest, **few)
