"""Writes `splus.npz`: the two released SPlus optimizers, 20 steps with refreshes.

Run by hand beside a checkout of kvfrans/splus (d96bd16), with jax, optax and torch installed:

    python tests/golden/splus.py SPLUS

Weights and gradients come from Philox seeds, so only the weights after each step and the averages
after the last are stored. Compared are variables for which the algorithm is well posed: a factor
of less than full rank has an arbitrary basis of its null space, and the sign of what is projected
there depends on it. Each release runs in float32 and in float64, and must agree with itself.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

STEPS = 20
ARGUMENTS = dict(weight_decay=0.1, max_dim=6, nonstandard_scale=0.02)
BETA_2, AVERAGE, EVERY, RATE = 0.9, 0.97, 4, 0.2
SHAPES = {
    "block/kernel": (5, 5),
    "block/bias": (4,),
    "block/convolution": (2, 2, 2),
    "embedding/table": (4, 4),  # whitened, with the scale of what is not standard
    "block/tall": (7, 4),  # its long side gets no factor
    "block/limit": (6, 6),  # at max_dim
}


def weights():
    """name -> array, float32."""
    rng = np.random.Generator(np.random.Philox(key=1))
    return {name: rng.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}


def gradients():
    """One dict name -> array for each step, float32."""
    rng = np.random.Generator(np.random.Philox(key=2))
    shift = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return [
        {n: (shift[n] + rng.standard_normal(s)).astype("float32") for n, s in SHAPES.items()}
        for _ in range(STEPS)
    ]


def flat(arrays):
    """One vector of all weights."""
    return np.concatenate([np.asarray(arrays[name]).ravel() for name in SHAPES])


def _load(path):
    spec = importlib.util.spec_from_file_location("released_splus", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arguments():
    return dict(
        b2=BETA_2,
        ema_rate=AVERAGE,
        inverse_every=EVERY,
        weight_decay=ARGUMENTS["weight_decay"],
        max_dim=ARGUMENTS["max_dim"],
        nonstandard_constant=ARGUMENTS["nonstandard_scale"],
    )


def optax_release(checkout, dtype):
    """Weights after each step (STEPS, P), averages after the last (P,)."""
    import jax

    jax.config.update("jax_enable_x64", dtype == "float64")
    jax.tree_map = jax.tree.map  # gone from today's JAX
    import optax

    released = _load(Path(checkout) / "optax" / "splus.py")
    optimizer = released.splus(RATE, verbose=False, **_arguments())
    theta = {name: jax.numpy.asarray(value, dtype) for name, value in weights().items()}
    state, seen = optimizer.init(theta), []
    for gradient in gradients():
        gradient = {name: jax.numpy.asarray(value, dtype) for name, value in gradient.items()}
        updates, state = optimizer.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        seen.append(flat(theta))
    return np.stack(seen), flat(released.splus_get_eval_params(state[0]))


def torch_release(checkout, dtype):
    """The same of the release for PyTorch, which looks at no name."""
    import torch

    torch.set_default_dtype(getattr(torch, dtype))
    released = _load(Path(checkout) / "torch" / "splus.py")

    def tensor(array):
        return torch.tensor(array, dtype=getattr(torch, dtype))

    theta = {name: torch.nn.Parameter(tensor(value)) for name, value in weights().items()}
    optimizer, seen = released.SPlus(list(theta.values()), lr=RATE, **_arguments()), []
    for gradient in gradients():
        for name, parameter in theta.items():
            parameter.grad = tensor(gradient[name])
        optimizer.step()
        seen.append(flat({name: value.detach() for name, value in theta.items()}))
    optimizer.eval()
    return np.stack(seen), flat({name: value.detach() for name, value in theta.items()})


def main(checkout):
    results = {}
    for name, release in (("optax", optax_release), ("torch", torch_release)):
        single, double = release(checkout, "float32"), release(checkout, "float64")
        apart = max(np.abs(a - b).max() for a, b in zip(single, double, strict=True))
        print(f"{name}: float32 and float64 are {apart:.1e} apart")
        assert apart < 3e-6, "ill posed: choose other gradients"
        results[f"{name}_weights"], results[f"{name}_average"] = single
    results = {name: value.astype("float32") for name, value in results.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **results)


if __name__ == "__main__":
    main(sys.argv[1])
