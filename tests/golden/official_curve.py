"""Writes `official_curve.npz`: losses of the official JAX MeanFlow over 50 steps of Adam.

Run by hand beside a checkout of Gsunshine/meanflow (d70cb55), with jax, flax and optax installed:

    PYTHONPATH=OFFICIAL:tests JAX_PLATFORMS=cpu python tests/golden/official_curve.py

Weights and the draws of each step come from Philox seeds (`oracles.official_weights`,
`official_draws`). For each guidance an array (50, 2): the loss of each step, and the mean over the
rows with r = t of the squared error of u against v, both before the step's update, in float64.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from official_meanflow import model, parameters, replace_draws
from oracles import OFFICIAL, official_draws

STEPS = 50


def curve(guidance):
    """(STEPS, 2) of the official model with this guidance."""
    net, optimizer = model(*guidance), optax.adamw(1e-3, b2=0.95, weight_decay=0)

    def loss(params, draws):
        replace_draws(draws)
        x, rngs = jnp.asarray(draws["x"], "float64"), {"gen": jax.random.key(0)}
        arguments = {"params": params}, x, draws["labels"]
        value, parts = net.apply(*arguments, method=net.forward, rngs=rngs)
        on = draws["r"] == draws["t"]
        return value, jnp.sum(on * parts["v_loss"]) / jnp.sum(on)

    @jax.jit
    def step(params, state, draws):
        found, gradients = jax.value_and_grad(loss, has_aux=True)(params, draws)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, jnp.stack(found)

    params, found = parameters(), []
    state = optimizer.init(params)
    for i in range(STEPS):
        params, state, losses = step(params, state, official_draws(i))
        found.append(losses)
    return np.array(found)


if __name__ == "__main__":
    curves = {name: curve(OFFICIAL["guidances"][name]) for name in ("none", "kappa")}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **curves)
