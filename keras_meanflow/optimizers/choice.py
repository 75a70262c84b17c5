"""The optimizer that a recipe's knob names, with warm-up and cosine decay."""

from typing import Any

import keras

from keras_meanflow.optimizers.adam import Adam
from keras_meanflow.optimizers.splus import SPlus, splus_rate
from keras_meanflow.parts.ranges import check_within

OPTIMIZERS = {"adam": keras.optimizers.Adam, "adam-bf16": Adam, "splus": SPlus}


def warmed_up(
    rate: float, *, steps: int, warmup_steps: int, last_rate: float = 0.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises from 0 to `rate`, then falls along a cosine to a share of it.

    Args:
        rate: the rate at the end of the warm-up.
        steps: number of steps of the whole run.
        warmup_steps: number of steps over which the rate rises.
        last_rate: share of the rate at the end of the run; 1 for a constant rate after the warm-up.

    Raises:
        ValueError: for a `last_rate` that is negative or not finite.

    Example:
        >>> keras.optimizers.Adam(warmed_up(1e-3, steps=1000, warmup_steps=100))
    """
    check_within("[0, inf)", last_rate=last_rate)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(steps - warmup_steps, 1),
        alpha=last_rate,
        warmup_target=rate,
        warmup_steps=warmup_steps,
    )


def compile_with(
    optimizer: str,
    learning_rate: float,
    *,
    width: int,
    steps: int | None = None,
    warmup_steps: int = 0,
    last_rate: float = 0.0,
    beta_2: float = 0.999,
    global_clipnorm: float | None = None,
    jit_compile: str | bool = "auto",
) -> dict:
    """The arguments of `FlowMap.compile` for the knob `optimizer`: one of `OPTIMIZERS`.

    "adam-bf16" is `Adam` with a momentum in bfloat16. The learning rate is Adam's for all
    optimizers: SPlus gets `splus_rate(learning_rate, width)`, so one grid of rates compares them.
    SPlus does not average the weights here, because a FlowMap does. On TensorFlow XLA is slow at
    its eigendecomposition, so it is not compiled by XLA unless `jit_compile` asks for it.

    Args:
        optimizer: "adam", "adam-bf16" or "splus".
        learning_rate: Adam's rate at the end of the warm-up.
        width: hidden size of the network.
        steps: number of steps of the whole run, or None for a constant rate.
        warmup_steps: number of steps over which the rate rises from 0.
        last_rate: share of the rate at the end of its cosine decay; 1 for no decay.
        beta_2: of Adam.
        global_clipnorm: largest norm of the gradient, or None.
        jit_compile: as for `keras.Model.compile`.

    Raises:
        ValueError: for another optimizer, or a number out of range.

    Example:
        >>> arguments = compile_with("splus", 5e-4, width=256, steps=1000, warmup_steps=100)
        >>> flow_map.compile(**arguments)
    """
    if optimizer not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise ValueError(f"optimizer is one of {names}. Received: {optimizer!r}.")
    check_within("[0, 1)", beta_2=beta_2)
    check_within("(0, inf)", global_clipnorm=global_clipnorm)
    rate = splus_rate(learning_rate, width) if optimizer == "splus" else learning_rate
    if steps is not None:
        rate = warmed_up(rate, steps=steps, warmup_steps=warmup_steps, last_rate=last_rate)
    if optimizer != "splus":
        chosen = OPTIMIZERS[optimizer](rate, beta_2=beta_2)
    else:
        chosen = SPlus(rate, use_ema=False)
        if keras.config.backend() == "tensorflow" and jit_compile == "auto":
            jit_compile = False
    chosen.global_clipnorm = global_clipnorm
    return {"optimizer": chosen, "jit_compile": jit_compile}


def check_optimizer(optimizer: keras.optimizers.Optimizer, jit_compile: Any = "auto") -> None:
    """Raise a ValueError for what Keras accepts and cannot train with.

    This is a learning rate, or a number of its schedule, that is negative or not finite; and a
    `jit_compile` other than "auto", True and False.
    """
    if jit_compile not in ("auto", True, False):
        raise ValueError(f"jit_compile must be auto, True or False. Received: {jit_compile!r}.")
    rate = optimizer.get_config()["learning_rate"]
    numbers = rate["config"] if isinstance(rate, dict) else {None: rate}
    for name, value in numbers.items():
        shown = "learning_rate" if name is None else f"learning_rate ({name} of its schedule)"
        check_within("[0, inf)", **{shown: value})
