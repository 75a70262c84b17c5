"""Writes `family_METHOD.npz`: losses and gradients of a method's own code on small weights.

Run by hand beside a checkout of that code, one method at a time:

    PYTHONPATH=tests:CHECKOUT python tests/golden/family.py METHOD CHECKOUT

| method | checkout | needs |
|---|---|---|
| split | clcarwin/SplitMeanFlow_MNIST 3533137 | torch |
| alpha | snap-research/alphaflow b0fef77 | torch |
| imf | Lyy-iiis/imeanflow bf60cd7 | jax, flax |

Weights and draws come from Philox seeds, so only results are stored: losses, and of every gradient
its norm and its products with three random directions. `split` and `alpha` run the authors' step on
this package's MLP written in torch, which stands in for their networks; `imf` runs their network.
"""

import ast
import sys
import types
from pathlib import Path

import numpy as np
from oracles import random_weights

ROWS, SIZE, WIDTH, CLASSES = 8, 6, 8, 5
ALPHAS = {  # alpha, omega, kappa, start, end, clip
    "one": (1.0, 1.0, 0.0, 0.0, 1.0, 100.0),
    "between": (0.4, 1.0, 0.0, 0.0, 1.0, 100.0),
    "zero": (0.0, 1.0, 0.0, 0.0, 1.0, 100.0),
    "guided": (0.4, 0.2, 0.92, 0.2, 0.7, 1.5),
    "guided_zero": (0.0, 0.2, 0.92, 0.2, 0.7, 1.5),
}
IMF_SIZE = (8, 8, 3)


def golden_path(method):
    return Path(__file__).with_name(f"family_{method}.npz")


def draws(shape):
    """Data, noise, times (r < t on the odd rows), labels, and what methods draw themselves."""
    rng = np.random.Generator(np.random.Philox(key=31))
    x, e = rng.standard_normal((2, ROWS, *shape)).astype("float32")
    t = rng.uniform(0.1, 1.0, ROWS).astype("float32")
    r = np.where(np.arange(ROWS) % 2, t * rng.uniform(size=ROWS), t).astype("float32")
    below = r < t
    told = {
        "omega": rng.uniform(1, 8, ROWS),
        "t_min": np.where(below, rng.uniform(0, 0.5, ROWS), 0.0),
        "t_max": np.where(below, rng.uniform(0.5, 1, ROWS), 1.0),
    }
    return {
        "x": x,
        "e": e,
        "r": r,
        "t": t,
        "labels": np.arange(ROWS, dtype="int32") % CLASSES,
        "drop": np.isin(np.arange(ROWS), [2, 4]),
        "split": rng.uniform(size=ROWS).astype("float32"),
        "told": {name: value.astype("float32") for name, value in told.items()},
    }


def mlp_shapes(classes):
    """Of the weights of `MLP(data_size=6, width=8, depth=1)`, in order."""
    time = [(256, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,)]
    labels = [(classes + 1, WIDTH)] if classes else []
    first = (SIZE + WIDTH * (2 + len(labels)), WIDTH)
    return [*time, *time, *labels, first, (WIDTH,), (WIDTH, SIZE), (SIZE,)]


def mlp_weights(classes):
    return random_weights(mlp_shapes(classes), seed=32)


def projections(gradients, seed=33):
    """Of each array its norm and its products with three random directions, (n, 4)."""
    directions = random_weights([(3, *np.shape(g)) for g in gradients], seed=seed, scale=1.0)
    pairs = [(np.asarray(g, "float64"), d) for g, d in zip(gradients, directions, strict=True)]
    return np.stack([[np.linalg.norm(g), *np.tensordot(d, g, g.ndim)] for g, d in pairs])


def torch_mlp(classes):
    """The MLP as a torch module called with z, r, t and labels."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            weights = [torch.from_numpy(w).double() for w in mlp_weights(classes)]
            self.weights = torch.nn.ParameterList(weights)

        def time(self, t, weights):
            w = torch.exp(-np.log(10_000.0) * torch.arange(128, dtype=t.dtype) / 128)
            angle = t[:, None] * w
            hidden = torch.cat([torch.cos(angle), torch.sin(angle)], 1) @ weights[0] + weights[1]
            return torch.nn.functional.silu(hidden) @ weights[2] + weights[3]

        def forward(self, z, r, t, labels=None):
            w = list(self.weights)
            features = [z.reshape(len(z), -1), self.time(t, w[:4]), self.time(t - r, w[4:8])]
            if classes:
                features.append(w[8][labels])
            hidden = torch.nn.functional.silu(torch.cat(features, 1) @ w[-4] + w[-3])
            return (hidden @ w[-2] + w[-1]).reshape(z.shape)

    return Module()


def torch_gradients(module):
    return [weight.grad.numpy() for weight in module.weights]


class Done(Exception):
    """Thrown where the authors' training loop would go on."""


def split(checkout):
    """One step of their training script, after its warm-up, with our draws."""
    import torch

    own, model, found = draws((SIZE,)), torch_mlp(None), {}
    images = {name: torch.from_numpy(own[name].reshape(ROWS, 1, SIZE, 1)).double() for name in "xe"}
    uniform = [
        torch.from_numpy(np.stack([np.minimum(own["r"], own["t"]), own["t"]], 1)).double(),
        torch.ones(ROWS).double(),  # no further row becomes r = t: the times have them
        torch.from_numpy(own["split"]).double(),
    ]
    names = {
        "argparse": None,
        "torchvision": types.SimpleNamespace(
            datasets=types.SimpleNamespace(MNIST=lambda *a, **k: None)
        ),
        "T": types.SimpleNamespace(Compose=lambda a: a, ToTensor=lambda: None),
        "torch": torch,
        "deepcopy": lambda module: torch_mlp(None),
        "OrderedDict": dict,
        "tqdm": lambda *a, **k: types.SimpleNamespace(),
        "DataLoader": lambda *a, **k: [(images["x"], None)],
        "SongUNet": lambda **sizes: model,
    }

    def stop(parameters, max_norm):
        raise Done

    def mse(output, target):
        found["loss"] = torch.mean((output - target) ** 2)
        return found["loss"]

    torch.rand = lambda *shape, device=None: uniform.pop(0)
    torch.randn_like = lambda a: images["e"]
    torch.nn.utils.clip_grad_norm_ = stop
    torch.nn.functional.mse_loss = mse
    source = Path(checkout, "train_splitmeanflow.py").read_text()
    source = source.replace("device = 'cuda'", "device = 'cpu'")
    source = source.replace("global_step = 0", "global_step = 10_001")
    # Rows with r = t are those that both times say: theirs are drawn apart.
    source = source.replace("< 0.5 # 50%", "< 0.5; equal_mask = r == t #")
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    exec(compile(tree, "train_splitmeanflow.py", "exec"), names)
    try:
        names["main"](types.SimpleNamespace(ckpt=None))
    except Done:
        pass
    gradients = projections(torch_gradients(model))
    return {"loss": found["loss"].detach().numpy(), "gradients": gradients}


class Labels:
    """Their group of conditions: one-hot labels, zero for none."""

    def __init__(self, label):
        self.label = label

    def __getitem__(self, rows):
        return Labels(self.label[rows])


def alpha(checkout):
    """Their loss with our draws; rows with r = t come first, as it needs them."""
    import torch
    from torch.autograd.functional import jvp

    class Base:
        cfg = None

        def _maybe_encode(self, net, x, cond):
            return x

    dictionary = type("EasyDict", (dict,), {})
    names = {
        "torch": torch,
        "jvp": jvp,
        "DiffusionLoss": Base,
        "beartype": lambda f: f,
        "EasyDict": dictionary,
        "TensorLike": object,
        "Optional": __import__("typing").Optional,
        "LossPhase": types.SimpleNamespace(Gen=0),
        "misc": types.SimpleNamespace(filter_nones=lambda d: d),
        "maybe_augment_videos": lambda x, pipe: (x, None),
    }
    tree = ast.parse(Path(checkout, "src/training/loss.py").read_text())
    wanted = "RecFlowLoss", "AlphaFlowLoss"
    tree.body = [node for node in tree.body if getattr(node, "name", None) in wanted]
    tree.body.insert(0, ast.parse("from __future__ import annotations").body[0])
    exec(compile(tree, "loss.py", "exec"), names)

    own = draws((SIZE,))
    order = np.argsort(own["r"] < own["t"], kind="stable")
    own = {name: torch.from_numpy(own[name][order]) for name in ("x", "e", "r", "t", "labels")}
    video = {name: own[name].double().reshape(ROWS, 1, SIZE, 1, 1) for name in "xe"}
    time = {name: own[name].double().reshape(ROWS, 1, 1, 1, 1) for name in "rt"}
    one_hot = torch.nn.functional.one_hot(own["labels"].long(), CLASSES).double()
    torch.randn_like = lambda a: video["e"]
    results = {}
    for name, (value, omega, kappa, start, end, clip) in ALPHAS.items():
        model = torch_mlp(CLASSES)

        def net(x, sigma_next, sigma, cond, augment_labels, return_extra_output, model=model):
            label = torch.full((len(x),), CLASSES)
            if cond is not None:
                label = torch.where(cond.label.sum(1) > 0, cond.label.argmax(1), label)
            u = model(x, sigma_next.reshape(-1), sigma.reshape(-1), label)
            return (u, {}) if return_extra_output else u

        loss = names["AlphaFlowLoss"]()
        gap = value * (time["t"] - time["r"])
        loss.sample_traj_params = lambda *a, g=gap, v=value: (time["t"], time["r"], g, v)
        loss.cfg = types.SimpleNamespace(
            cfg_params=types.SimpleNamespace(omega=omega, kappa=kappa, t_min=start, t_max=end),
            model=types.SimpleNamespace(
                label_dropout=0.0, sampling=types.SimpleNamespace(sigma_noise=1.0)
            ),
            clamp_utgt=clip,
            adaptive_loss_weight_eps=1e-3,
        )
        found = loss.forward(net, video["x"], Labels(one_hot))["total"].mean()
        found.backward()
        results[f"{name}/loss"] = found.detach().numpy()
        results[f"{name}/gradients"] = projections(torch_gradients(model))
    return results


def imf_shapes():
    """Names and shapes of the small network, as `weights_imf.npz` has them."""
    with np.load(Path(__file__).with_name("weights_imf.npz")) as stored:
        names = str(stored["names"]).split("\n")
        shapes = [tuple(map(int, line.split())) for line in str(stored["shapes"]).split("\n")]
    return dict(sorted(zip(names, shapes, strict=True)))


def imf(checkout):
    """Their loss with our draws, on their network in float32."""
    del checkout
    import imf as official
    import jax
    import jax.numpy as jnp
    from flax import traverse_util
    from golden import weights_formats
    from models import imfDiT

    sizes = weights_formats.torch_sizes(weights_formats.IN_CONTEXT)
    sizes["aux_head_depth"] = weights_formats.IN_CONTEXT["head_depth"]
    own = draws(IMF_SIZE)
    column = {n: jnp.asarray(own[n]).reshape(-1, 1, 1, 1) for n in ("r", "t", "drop")}
    told = {n: jnp.asarray(v).reshape(-1, 1, 1, 1) for n, v in own["told"].items()}
    imfDiT.imfDiT_small = lambda **k: imfDiT.imfDiT(**{**sizes, **k})
    model = official.iMeanFlow
    model.sample_tr = lambda self, rows: (column["t"], column["r"], column["t"] == column["r"])
    model.sample_cfg_scale = lambda self, rows: told["omega"]
    model.sample_cfg_interval = lambda self, rows, mask: (told["t_min"], told["t_max"])
    jax.random.normal = lambda key, shape, dtype=None: (
        jnp.asarray(own["e"]) if tuple(shape) == own["e"].shape else jnp.zeros(shape, dtype)
    )

    def drop(self, v_t, v_g, labels):
        labels = jnp.where(column["drop"].reshape(-1), self.num_classes, labels)
        return labels, jnp.where(column["drop"], v_t, v_g)

    model.cond_drop = drop
    net = model(model_str="imfDiT_small", num_classes=weights_formats.SIZE["classes"])
    shapes = imf_shapes()
    state = weights_formats.random_state(list(shapes), shapes.values(), {})
    params = traverse_util.unflatten_dict({("net", *n.split("/")): a for n, a in state.items()})

    def loss(params):
        rngs = {"gen": jax.random.key(0)}
        arguments = jnp.asarray(own["x"]), jnp.asarray(own["labels"])
        return net.apply({"params": params}, *arguments, method=net.forward, rngs=rngs)

    (value, parts), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    flat = traverse_util.flatten_dict(gradients["net"], sep="/")
    numbers = np.prod(IMF_SIZE)
    return {
        "loss": np.asarray(value),
        "u_error": np.asarray(parts["loss_u"]) * numbers,
        "second_error": np.asarray(parts["loss_v"]) * numbers,
        "gradients": projections([flat[name] for name in shapes]),
    }


def main(method, checkout):
    np.savez_compressed(golden_path(method), **globals()[method](checkout))


if __name__ == "__main__":
    main(*sys.argv[1:])
