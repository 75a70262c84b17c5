"""Handwritten digits from noise in one step: the default run."""

import keras
import numpy as np

from keras_meanflow import DiT, FlowMap, FlowMatching, Guidance, Heun, LogitNormal, MeanFlow
from keras_meanflow.data import load_digits
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
def digits(
    *,
    seed: int = 0,
    steps: int = 4000,
    batch_size: int = 64,
    optimizer: str = "adam",
    learning_rate: float = 1.5e-3,
    warmup_steps: int = 200,
    last_rate: float = 0.0,
    averages: tuple[float, ...] = (0.999,),
    width: int = 96,
    depth: int = 4,
    heads: int = 4,
    patch_size: int = 2,
    omega: float = 1.0,
    kappa: float = 0.0,
    fraction_r_equals_t: float = 0.5,
    power: float = 0.5,
    label_dropout: float = 0.0,
    sample_every: int | None = 500,
    log_every: int = 100,
    checkpoint_seconds: float = 60.0,
    jit_compile: bool | str = "auto",
) -> Training:
    """The 8x8 digits that ship with the package, by class, with a small DiT.

    Trains on every other digit; the others are there to judge by. Guidance, of effective scale
    omega / (1 - kappa), is off: it costs steps, and steps help more here. So no label is dropped;
    a sampler's guidance scale needs some (label_dropout=0.1). power is the adaptive loss's p: at
    the paper's 1 one-step samples are too alike.

    learning_rate is Adam's; optimizer=splus takes 2 width learning_rate (docs/splus.md), adam-bf16
    keeps its momentum in bfloat16. last_rate is the share of it that is left at the end; 1 for a
    constant rate.

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447).
    Command: keras-meanflow train digits
    Cost: on two CPU cores 34 to 73 ms a step on JAX, two and a half to five minutes.
    Expected: docs/evaluation.md; the README's table by benchmarks/digits_quality.py.
    """
    keras.utils.set_random_seed(seed)
    network = DiT(
        image_size=8,
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
        guidance=Guidance(omega=omega, kappa=kappa),
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
        data=load_digits("train"),
        batch_size=batch_size,
        steps=steps,
        sample_labels=np.repeat(np.arange(10), 10),
        seed=seed,
        log_every=log_every,
        sample_every=sample_every,
        sample_columns=10,
        checkpoint_seconds=checkpoint_seconds,
    )


@recipe(extends=digits)
def digits_improved(
    *,
    gamma: float | None = 5.0,
    exponent: float | None = 1.0,
    stages: int | None = None,
    patience: int = 200,
    **knobs,
) -> Training:
    """The digits by the improved training: velocity first, then from short to long intervals.

    MinSNR weights (gamma) on rows with r = t, weights by the gap (exponent) on rows with r < t;
    `stages=20 gamma=none` is the other variant, easy times first. None turns a part off.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065).
    Command: keras-meanflow train digits_improved
    Cost: that of digits.
    """
    scheme = dict(gamma=gamma, exponent=exponent, stages=stages, patience=patience)
    return improve(digits(**knobs), **scheme)


@recipe(extends=digits)
def digits_flow(**knobs) -> Training:
    """The digits by flow matching: a velocity for many steps, and a teacher for other methods.

    Paper: Flow Matching for Generative Modeling (arXiv 2210.02747).
    Command: keras-meanflow train digits_flow
    Cost: three quarters of that of digits.
    """
    training = digits(**knobs)
    objective = FlowMatching(label_dropout=training.flow_map.objective.label_dropout)
    return training.with_objective(objective, sampler=Heun(steps=25))


@recipe(extends=digits)
def digits_dmf(
    *,
    flow: str | None = None,
    split_depth: int = 3,
    steps: int = 2000,
    **knobs,
) -> Training:
    """The digits by Decoupled MeanFlow: flow matching and MeanFlow on every row; late blocks see r.

    flow is the directory of a run of digits_flow to start from; None starts from nothing. kappa is
    the paper's omega, the strength of model guidance.

    Paper: Decoupled MeanFlow (arXiv 2510.24474).
    Command: keras-meanflow train digits_dmf
    Cost: that of digits, whose steps take half as long.
    Expected: accuracy 0.998, coverage 0.845, Frechet 0.630 in one step (docs/methods.md).
    """
    start = None if flow is None else trained_network(flow)
    return decoupled(digits(steps=steps, **knobs), split_depth=split_depth, flow=start)


@recipe(extends=digits)
def digits_reflow(
    *,
    data: str | None = None,
    percentile: float = 90.0,
    start: str | None = None,
    largest_scale: float = 1.0,
    steps: int = 2000,
    **knobs,
) -> Training:
    """The digits by Re-MeanFlow: MeanFlow on the straightened lines of a teacher's pairs.

    start is the teacher's run, whose weights it begins with; None begins with nothing and needs
    more steps. The second stage, guided by a random scale, goes on with the first:
    start=runs/digits_reflow largest_scale=2.5, and --run.

    Paper: Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342).
    Command: keras-meanflow train digits_reflow --set data=PAIRS --set start=runs/digits_flow
    Data: keras-meanflow reflow runs/digits_flow PAIRS -n 20000 (docs/re_mean_flow.md).
    Cost: half that of digits, after the teacher and its pairs.
    Expected: accuracy 0.997, coverage 0.905, Frechet 0.483 in one step (docs/re_mean_flow.md).
    """
    if data is None:
        raise ValueError(
            "digits_reflow needs --set data=PAIRS: a pair store, made by keras-meanflow reflow. "
            "Received: None."
        )
    settings = dict(percentile=percentile, start=start, largest_scale=largest_scale)
    return rectified(digits(steps=steps, **knobs), data, **settings)


@recipe(extends=digits)
def digits_flow_consist(
    *,
    rectification: float = 0.1,
    begin: float = 0.4,
    steps: int = 2000,
    **knobs,
) -> Training:
    """The digits by FlowConsist: du/dt along the own velocity, samples pushed onto the data.

    rectification is the weight of the push, from the share begin of the steps on. A second network
    of the same size learns the velocity of the samples.

    Paper: FlowConsist (arXiv 2602.06346), reconstructed (see `FlowConsist`).
    Command: keras-meanflow train digits_flow_consist
    Cost: two thirds more than that of digits, whose steps take a third as long.
    Expected: accuracy 0.983, coverage 0.846, Frechet 0.638 in one step (docs/methods.md).
    """
    training = digits(steps=steps, **knobs)
    return consistent(training, rectification=rectification, begin=begin)


@recipe(extends=digits)
def digits_split(
    *,
    teacher: str | None = None,
    teacher_scale: float = 1.0,
    **knobs,
) -> Training:
    """The digits by SplitMeanFlow: each interval is made of its two parts, without a derivative.

    teacher is the directory of a run of digits_flow: its velocity takes the data's place, and the
    student starts from its weights. teacher_scale guides it, if labels were dropped in its
    training (label_dropout=0.1).

    Paper: SplitMeanFlow (arXiv 2507.16884), which has no images.
    Command: keras-meanflow train digits_split
    Cost: that of digits.
    Expected: docs/methods.md.
    """
    return split(digits(**knobs), teacher=teacher, scale=teacher_scale)


@recipe(extends=digits)
def digits_alpha(*, begin: float = 0.0, until: float = 1.0, **knobs) -> Training:
    """The digits by AlphaFlow: from trajectory flow matching to MeanFlow between begin and until.

    Paper: AlphaFlow (arXiv 2510.20771).
    Command: keras-meanflow train digits_alpha
    Cost: three quarters of that of digits at first, that of digits in the end.
    Expected: docs/methods.md.
    """
    return alpha(digits(**knobs), begin=begin, until=until)


@recipe(extends=digits)
def digits_imf(*, head_depth: int = 2, largest: float = 1.0, **knobs) -> Training:
    """The digits by improved MeanFlow: du/dt along the velocity of a second head.

    The condition and t - r are tokens of the sequence (`InContextDiT`). With largest above 1 the
    network learns to be told a guidance scale up to that; it needs label_dropout=0.1 then.

    Paper: Improved Mean Flows (arXiv 2512.02012).
    Command: keras-meanflow train digits_imf
    Cost: three times that of digits: 22 tokens for 16, and the second head.
    Expected: docs/methods.md.
    """
    few = dict(class_tokens=2, omega_tokens=1, interval_tokens=1, time_tokens=2)
    return improved(digits(**knobs), head_depth=head_depth, largest=largest, **few)
