"""Writes `mf_rae.npz`: losses and gradients of MF-RAE's own code on small random networks.

Run by hand beside a checkout of sony/mf-rae fffc544, with torch and einops:

    PYTHONPATH=CHECKOUT/src:tests python tests/golden/mf_rae.py

Networks, their weights and inputs are those of `weights_rae.npz` and `weights_mf-rae.npz`. The
authors' draws are replaced by given ones, and nothing is dropped. Of each tensor's gradient the
norm and the product with a random direction are kept.
"""

import sys
import types
from pathlib import Path

import numpy as np
from golden import weights_formats as formats

PATH = Path(__file__).with_suffix(".npz")
STEPS, SHIFT = 3, 3.0


def random_weights(name):
    """The random tensors of a network by name: those of its golden file."""
    with np.load(formats.golden_path(name)) as stored:
        names = str(stored["names"]).split("\n")
        shapes = [tuple(map(int, line.split())) for line in str(stored["shapes"]).split("\n")]
        fixed = {k.removeprefix("fixed/"): stored[k] for k in stored if k.startswith("fixed/")}
    return formats.random_state(names, shapes, fixed)


def noise():
    """e, of the shape of the inputs' z, which is the data here."""
    rng = np.random.Generator(np.random.Philox(key=31))
    return rng.standard_normal(formats.inputs()[0].shape).astype("float32")


def direction(name, shape):
    """A random direction for the gradient of a tensor in torch's layout."""
    rng = np.random.Generator(np.random.Philox(key=[32, len(name)]))
    return rng.standard_normal(shape).astype("float32")


def summary(gradients):
    """Norm and product with the direction of each gradient in torch's layout, sorted by name."""
    found = [(g, (g * direction(name, g.shape)).sum()) for name, g in sorted(gradients.items())]
    return np.array([(np.linalg.norm(g), along) for g, along in found], "float32")


def grid(shift):
    """The times of the teacher's Euler steps."""
    t = np.linspace(1.0, 0.0, STEPS + 1)
    return shift * t / (1.0 + (shift - 1.0) * t)


def main():
    formats.stub_timm_and_transformers()
    sys.modules["torchdiffeq"] = types.SimpleNamespace(odeint=None)
    import torch
    from stage2.models.DDT import DiTwDDTHead, DiTwDDTHead_MF
    from stage2.transport import create_transport

    def network(cls, name):
        model = formats.dit_dh_model(cls)
        state = {k: torch.from_numpy(v) for k, v in random_weights(name).items()}
        model.load_state_dict(state)
        return model.eval()

    z, r, t, labels, _ = formats.inputs()
    x, e = (torch.from_numpy(np.moveaxis(a, -1, 1).copy()) for a in (z, noise()))
    r, t, labels = (torch.from_numpy(a) for a in (r, t, labels.astype("int64")))
    student, teacher = network(DiTwDDTHead_MF, "mf-rae"), network(DiTwDDTHead, "rae")
    transport = create_transport("Linear", "velocity", None, None, None, time_dist_shift=1.0)
    transport.sample_mf = lambda x1, ratio: (r, t, e, x1)
    out = {}

    def keep(key, terms):
        student.zero_grad()
        terms["loss"].mean().backward()
        out[f"{key}/loss"] = terms["loss"].detach().numpy()
        gradients = {n: p.grad.numpy() for n, p in student.named_parameters() if p.grad is not None}
        out[f"{key}/gradient"] = summary(gradients)

    undropped = {"label_dropout_prob": 0.0}
    keep("mfd", transport.training_losses_mfd(student, teacher, x, {"y": labels}, **undropped))
    keep("mft", transport.training_losses_mft(student, x, {"y": labels}, **undropped))
    torch.randn_like = lambda _: e
    torch.randint = lambda low, high, size: torch.arange(high)
    for key, shift in (("cmt", 1.0), ("cmt_mislabelled", SHIFT)):

        def walk(z, model, y, shift=shift):
            states, times = [z], grid(shift).astype("float32")
            for t, s in zip(times[:-1], times[1:], strict=True):
                rows = torch.full((len(z),), float(t))
                states.append(states[-1] - float(t - s) * model(states[-1], rows, y=y))
            return states

        keep(key, transport.training_losses_cmt_v2(student, teacher, walk, x, {"y": labels}, 0.0))
    np.savez_compressed(PATH, **out)


if __name__ == "__main__":
    main()
