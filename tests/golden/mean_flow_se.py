"""Writes `mean_flow_se.npz`: losses and draws of the authors' own training step.

    python tests/golden/mean_flow_se.py CHECKOUT

with CHECKOUT a clone of github.com/liduojia1/MeanFlowSE at 16da845, and PyTorch and SciPy. Their
`VFModel._step` runs as it is, around a small function in the place of the network; what it imports
and does not use here is replaced by empty modules.
"""

import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
import torch

ROWS, SHAPE = 4, (1, 8, 6)
RELEASED = dict(mf_jvp_impl="fd", mf_first_order_coef=0.5, mf_jvp_clip=5.0)
EXACT = dict(mf_jvp_impl="autograd", mf_first_order_coef=1.0, mf_jvp_clip=1e9)
CASES = {  # settings, epoch of 100
    "released, skipped": (RELEASED, 5),
    "released, early": (RELEASED, 20),
    "released, late": (RELEASED, 90),
    "exact": (EXACT, 60),
}
UNUSED = "pytorch_lightning torch_ema flowmse.sampling flowmse.backbones flowmse.util.inference"
UNUSED += " flowmse.util.other matplotlib matplotlib.pyplot"


def network(inputs, t, d):
    """A smooth field with large derivatives, as in `test_speech_objective.py`."""
    x, y = inputs[:, :1], inputs[:, 1:]
    t, d = t[:, None, None, None], d[:, None, None, None]
    a, b = x.real, x.imag
    real = torch.sin(2.0 * a) * torch.cos(t) + 0.3 * y.imag + d * b
    imag = torch.tanh(b + d * a) + t * y.real * a
    return -torch.complex(real, imag)


class Module:
    """What `_step` needs of a LightningModule."""

    def __call__(self, *args, **kwargs):
        return self.forward(*args, **kwargs)


def authors_model(checkout):
    """Their model and path."""
    sys.path.insert(0, str(Path(checkout) / "MeanFLowSE"))
    for name in UNUSED.split():
        sys.modules[name] = mock.MagicMock()
    sys.modules["pytorch_lightning"].LightningModule = Module
    from flowmse.model import VFModel
    from flowmse.odes import FLOWMATCHING

    return VFModel, FLOWMATCHING


def main(checkout):
    VFModel, FLOWMATCHING = authors_model(checkout)
    rng = np.random.default_rng(5)
    complexes = rng.standard_normal((3, ROWS, *SHAPE, 2)) @ np.array([1.0, 1.0j])
    complexes[:, 3] *= 0.05  # a row whose derivative is not clipped
    clean, noisy, noise = (torch.tensor(c).to(torch.complex64) for c in complexes)
    noise = noise / np.sqrt(2.0)
    draws = torch.tensor(rng.random((3, ROWS)), dtype=torch.float32)  # of t, of the gap, of r = t
    draws[2] = torch.tensor([0.5, 0.02, 0.7, 0.9])

    golden = {"draws": draws, "clean": clean, "noisy": noisy, "noise": noise}
    for name, (settings, epoch) in CASES.items():
        model = VFModel.__new__(VFModel)
        model.__dict__.update(
            ode=FLOWMATCHING(), dnn=network, t_eps=0.03, T_rev=1.0, loss_type="mse", use_mfse=True,
            mf_weight_final=0.25, mf_warmup_frac=0.5, mf_delta_gamma_start=8.0,
            mf_delta_gamma_end=1.0, mf_delta_warmup_frac=0.7, mf_r_equals_t_prob=0.1,
            mf_jvp_eps=1e-3, mf_jvp_chunk=1, mf_skip_weight_thresh=0.05, current_epoch=epoch,
            trainer=types.SimpleNamespace(max_epochs=100), log=lambda *a, **k: None, **settings,
        )  # fmt: skip
        seen = {}
        safe_jvp = model._safe_jvp

        def recorded(xt, t, y, r, v_dir, t_dir, safe_jvp=safe_jvp, seen=seen):
            seen.update(r=r, jvp=safe_jvp(xt, t, y, r, v_dir, t_dir))
            return seen["jvp"]

        model._safe_jvp = recorded
        uniforms = iter([draws[1], draws[2]])
        with (
            mock.patch("torch.rand", lambda *a, **k: draws[0]),
            mock.patch("torch.rand_like", lambda *a, u=uniforms: next(u)),
            mock.patch("torch.randn_like", lambda *a: noise),
        ):
            golden[f"{name}: loss"] = model._step((clean, noisy), 0)
        for key, value in seen.items():
            golden[f"{name}: {key}"] = value
        norms = [] if not seen else torch.linalg.norm(seen["jvp"].flatten(1), dim=1).tolist()
        print(name, float(golden[f"{name}: loss"]), norms)
    arrays = {name: value.detach().numpy() for name, value in golden.items()}
    np.savez_compressed(Path(__file__).with_suffix(".npz"), **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
