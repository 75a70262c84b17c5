"""The optimizer that a recipe's knob names, with warm-up and cosine decay."""

import keras

from keras_meanflow.optimizers.adam import Adam
from keras_meanflow.optimizers.splus import SPlus, splus_rate

OPTIMIZERS = {"adam": keras.optimizers.Adam, "adam-bf16": Adam, "splus": SPlus}


def warmed_up(rate, *, steps, warmup_steps, last_rate=0.0):
    """A learning rate that rises from 0, and falls along a cosine to a share of it.

    Args:
        rate: at the end of the warm-up.
        steps: of the whole run.
        warmup_steps: over which the rate rises.
        last_rate: share of it that is left at the end; 1 for a constant rate after the warm-up.

    Example:
        >>> keras.optimizers.Adam(warmed_up(1e-3, steps=1000, warmup_steps=100))
    """
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(steps - warmup_steps, 1),
        alpha=last_rate,
        warmup_target=rate,
        warmup_steps=warmup_steps,
    )


def compile_with(
    optimizer,
    learning_rate,
    *,
    width,
    steps=None,
    warmup_steps=0,
    last_rate=0.0,
    beta_2=0.999,
    global_clipnorm=None,
    jit_compile="auto",
):
    """The arguments of `FlowMap.compile` for the knob `optimizer`: one of `OPTIMIZERS`.

    "adam-bf16" is `Adam`, with its momentum in bfloat16. The rate is Adam's for all: SPlus takes
    `splus_rate(learning_rate, width)`, so that one grid serves to compare them. SPlus does not
    average here, since a FlowMap does, and on TensorFlow is not compiled by XLA unless
    `jit_compile` says so, because of its eigendecomposition there.

    Args:
        optimizer: "adam", "adam-bf16" or "splus".
        learning_rate: Adam's, at the end of the warm-up.
        width: hidden size of the network.
        steps: of the whole run, or None for a constant rate.
        warmup_steps: over which the rate rises from 0.
        last_rate: share of the rate that is left at the end of its cosine decay; 1 for none.
        beta_2: Adam's.
        global_clipnorm: largest norm of the gradient, or None.
        jit_compile: as for `keras.Model.compile`.

    Raises:
        ValueError: for another optimizer.

    Example:
        >>> arguments = compile_with("splus", 5e-4, width=256, steps=1000, warmup_steps=100)
        >>> flow_map.compile(**arguments)
    """
    if optimizer not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise ValueError(f"optimizer is one of {names}. Received: {optimizer!r}.")
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
