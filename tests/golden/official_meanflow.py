"""Writes `official_meanflow.npz`: the official JAX MeanFlow's output, loss and gradients.

Run by hand beside a checkout of Gsunshine/meanflow (d70cb55), with jax and flax installed:

    PYTHONPATH=OFFICIAL:tests JAX_PLATFORMS=cpu python tests/golden/official_meanflow.py

Weights and draws come from Philox seeds (`oracles.official_weights`, `official_draws`), so only
the results are stored: the whole output, the loss, and of every gradient its norm and its products
with four random directions. The official model is computed in float64.
"""

import sys
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402
import meanflow as official  # noqa: E402
from models import models_dit  # noqa: E402
from oracles import (  # noqa: E402
    OFFICIAL,
    official_directions,
    official_draws,
    official_names,
    official_weights,
)

_clip = jnp.clip  # today's JAX has renamed the arguments that the official code uses
jnp.clip = lambda x, a_min, a_max: _clip(x, a_min, a_max)


def parameters():
    """The weights as the official code nests them."""
    tree = {}
    for name, value in zip(official_names(), official_weights(), strict=True):
        *folders, leaf = name.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[leaf] = jnp.asarray(value, "float64")
    return {"net": tree}


def replace_draws(draws):
    """Put ours, arrays of NumPy or JAX, in the place of the official model's random draws."""
    draws = {k: jnp.asarray(v, "float64") for k, v in draws.items()}
    column = {k: v.reshape(-1, 1, 1, 1) for k, v in draws.items() if v.ndim == 1}
    official.MeanFlow.sample_tr = lambda self, bz: (column["t"], column["r"])
    jax.random.normal = lambda key, shape, dtype=None: (
        draws["e"] if tuple(shape) == draws["e"].shape else jnp.zeros(shape, dtype)
    )

    def drop(self, v_t, v_g, labels):
        mask = column["drop"] > 0
        kept = jnp.where(mask.reshape(-1), self.num_classes, labels)
        return kept, jnp.where(mask, v_t, v_g)

    official.MeanFlow.cond_drop = drop


def model(omega, kappa, start, end):
    """The official model at the small size, in float64."""
    models_dit.DiT_small = lambda **kwargs: models_dit.DiT(
        input_size=OFFICIAL["image_size"],
        patch_size=OFFICIAL["patch_size"],
        in_channels=OFFICIAL["channels"],
        hidden_size=OFFICIAL["width"],
        depth=OFFICIAL["depth"],
        num_heads=OFFICIAL["heads"],
        num_classes=OFFICIAL["num_classes"],
        **kwargs,
    )
    official.MeanFlow.dtype = jnp.float64
    return official.MeanFlow(
        model_str="DiT_small",
        model_config={},
        num_classes=OFFICIAL["num_classes"],
        omega=omega,
        kappa=kappa,
        t_start=start,
        t_end=end,
        guidance_eq="cfg" if (omega, kappa) != (1.0, 0.0) else "",
    )


def main(path):
    draws, results = official_draws(), {}
    replace_draws(draws)
    rngs = {"gen": jax.random.key(0)}
    for name, guidance in OFFICIAL["guidances"].items():
        net = model(*guidance)

        def loss(params, net=net):
            value, _ = net.apply(
                {"params": params},
                jnp.asarray(draws["x"], "float64"),
                draws["labels"],
                method=net.forward,
                rngs=rngs,
            )
            return value

        value, gradients = jax.value_and_grad(loss)(parameters())
        results[f"{name}/loss"] = value
        flat = [gradients["net"]]
        for parameter, directions in zip(official_names(), official_directions(), strict=True):
            node = flat[0]
            for part in parameter.split("/"):
                node = node[part]
            products = [np.linalg.norm(node), *np.tensordot(directions, node, node.ndim)]
            results[f"{name}/{parameter}"] = np.asarray(products, "float64")
    labels = np.where(draws["drop"] > 0, OFFICIAL["num_classes"], draws["labels"])
    t, h = jnp.asarray(draws["t"], "float64"), jnp.asarray(draws["t"] - draws["r"], "float64")
    results["u"] = net.apply(
        {"params": parameters()},
        jnp.asarray(draws["x"], "float64"),
        t,
        h,
        labels,
        method=lambda self, x, t, h, y: self.u_fn(x, t, h, y, train=False),
        rngs=rngs,
    )
    # In one array each: thousands of small entries would cost more in names than in numbers.
    names = [k for k in results if k.count("/") > 1]
    np.savez_compressed(
        path,
        u=np.asarray(results["u"], "float32"),
        loss=np.array([results[f"{g}/loss"] for g in OFFICIAL["guidances"]]),
        gradients=np.stack([results[k] for k in names]),
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix(".npz"))
