"""Writes `decoupled_meanflow.npz`: losses, targets and gradients of the authors' `DMFLoss`.

Run by hand beside a checkout of kyungmnlee/dmf (a6db0f6), with torch installed:

    PYTHONPATH=CHECKOUT:tests python tests/golden/decoupled_meanflow.py

Weights and draws come from Philox seeds. Stored are the mean loss, both targets of a few rows, and
of every gradient its norm and its products with four random directions. The flash attention
kernels, which need a GPU, and timm's patch embedding, a plain convolution, are replaced; so are the
draws, by ours.
"""

import sys
import types
from pathlib import Path

import numpy as np

SIZE = {"image": 8, "channels": 3, "patch": 2, "width": 24, "depth": 3, "heads": 3, "split": 2}
CLASSES, ROWS, SHOWN = 1000, 6, 2  # DMFLoss has the null label 1000 in its text
GUIDANCES = {"none": (0.0, 1.0, "default"), "mg": (0.6, 0.7, "mg")}  # omega, g_max, g_type
PATH = Path(__file__).with_suffix(".npz")


def generator(key):
    return np.random.Generator(np.random.Philox(key=key))


def state(shapes):
    """Random weights by the authors' names."""
    return {
        name: (0.2 * generator(31 + i).standard_normal(shape)).astype("float32")
        for i, (name, shape) in enumerate(sorted(shapes.items()))
    }


def directions(shapes):
    """Four random directions for the gradient of each weight."""
    return {
        name: generator(5000 + i).standard_normal((4, *shape))
        for i, (name, shape) in enumerate(sorted(shapes.items()))
    }


def draws():
    """Data, labels and dropped rows, and noise and times of both branches; channels last."""
    rng, shape = generator(32), (ROWS, SIZE["image"], SIZE["image"], SIZE["channels"])
    x, e_flow, e = rng.standard_normal((3, *shape)).astype("float32")
    t_flow, first, second = rng.uniform(0.05, 0.95, (3, ROWS)).astype("float32")
    drop = np.arange(ROWS) == 2
    labels = rng.integers(0, CLASSES, ROWS).astype("int32")
    r, t = np.minimum(first, second), np.maximum(first, second)
    return {**locals(), "labels": labels}


def _stand_ins():
    import torch

    for kernels in ("flash_attention_2_jvp", "flash_attention_3_jvp"):
        stub = types.ModuleType(f"models.{kernels}")
        stub.flash_attn_func = None
        sys.modules[stub.__name__] = stub

    class PatchEmbed(torch.nn.Module):
        def __init__(self, size, patch, channels, width, bias=True):
            super().__init__()
            self.proj = torch.nn.Conv2d(channels, width, patch, patch, bias=bias)
            self.num_patches = (size // patch) ** 2

        def forward(self, x):
            return self.proj(x).flatten(2).transpose(1, 2)

    for name in ("timm", "timm.models", "timm.models.vision_transformer"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["timm.models.vision_transformer"].PatchEmbed = PatchEmbed


def main():
    _stand_ins()
    import loss as theirs
    import torch
    from models.dmft import DMFT

    model = DMFT(
        input_size=SIZE["image"],
        patch_size=SIZE["patch"],
        in_channels=SIZE["channels"],
        hidden_size=SIZE["width"],
        depth=SIZE["depth"],
        num_heads=SIZE["heads"],
        num_classes=CLASSES,
        dmf_depth=SIZE["split"],
        use_logvar=True,
        attn_func="base",
    )
    trained = [name for name, _ in model.named_parameters() if name != "pos_embed"]
    shapes = {name: tuple(model.get_parameter(name).shape) for name in trained}
    numbers = {name: torch.from_numpy(array) for name, array in state(shapes).items()}
    model.load_state_dict({"pos_embed": model.pos_embed, **numbers})

    drawn = draws()
    images = {k: torch.from_numpy(np.moveaxis(drawn[k], -1, 1).copy())
              for k in ("x", "e", "e_flow")}  # fmt: skip
    times = {k: torch.from_numpy(drawn[k].copy()).reshape(-1, 1, 1, 1)
             for k in ("r", "t", "t_flow")}  # fmt: skip
    drop = torch.from_numpy(drawn["drop"])
    labels = torch.from_numpy(drawn["labels"]).long()
    compared, log_lv_loss = [], theirs.log_lv_loss

    def interpolant(x, t, path_type):
        e = images["e_flow"] if t is times["t_flow"] else images["e"]
        return (1 - t) * x + t * e, e - x

    def recording(prediction, target, log_variance):
        compared.append(target.detach())
        return log_lv_loss(prediction, target, log_variance)

    theirs.interpolant, theirs.log_lv_loss = interpolant, recording
    results = {}
    for name, (omega, end, kind) in GUIDANCES.items():
        method = theirs.DMFLoss(omega=omega, g_max=end, g_type=kind)
        method.cond_drop = lambda y: (torch.where(drop, CLASSES, y), drop)
        method.sample_times = lambda rows: (times["t_flow"], times["t"], times["r"])
        compared.clear()
        model.zero_grad()
        value = method(model, model, images["x"], labels)[0].mean()
        value.backward()
        gradients = {n: model.get_parameter(n).grad.numpy() for n in trained}
        products = [
            [np.linalg.norm(g), *np.tensordot(directions(shapes)[n], g, g.ndim)]
            for n, g in sorted(gradients.items())
        ]
        targets = [np.moveaxis(target[:SHOWN].numpy(), 1, -1) for target in compared]
        results[f"{name}/loss"] = value.item()
        results[f"{name}/targets"] = np.stack(targets).astype("float32")
        results[f"{name}/gradients"] = np.array(products)
    names = sorted(shapes)
    text = "\n".join(f"{n} {' '.join(map(str, shapes[n]))}" for n in names)
    np.savez_compressed(PATH, shapes=np.array(text), **results)


if __name__ == "__main__":
    main()
