"""Writes `re_meanflow.npz`: loss and gradients of the authors' `MeanFlow.loss_edm`.

Run by hand beside a checkout of Xinxi-Zhang/Re-MeanFlow (959f18c), with torch and scipy installed:

    PYTHONPATH=CHECKOUT:tests python tests/golden/re_meanflow.py

The network is a small one written here and in the test: the method is compared, in float64, with
and without the guidance of its second stage. Draws are ours; labels that are dropped come in as
null labels.
"""

from pathlib import Path

import numpy as np

CLASSES, NULL = 4, 1000
ROWS, SHAPE, SIZE, HIDDEN = 8, (3, 2, 2), 12, 10
P, C = 0.5, 0.01  # of the loss, as the authors' README has them
SCALES = {"first": 1.0, "low": 1.7, "high": 2.4}  # w; omega is max(1, w - 1)
PATH = Path(__file__).with_suffix(".npz")


def weights():
    """Of u = tanh([z, t, r, label] A + b) C."""
    rng = np.random.Generator(np.random.Philox(key=41))
    shapes = {"a": (SIZE + 2 + CLASSES, HIDDEN), "b": (HIDDEN,), "c": (HIDDEN, SIZE)}
    return {k: (0.5 * rng.standard_normal(s)).astype("float32") for k, s in shapes.items()}


def draws():
    """Pairs, times (r < t on every fourth row), labels and the rows that lose them."""
    rng = np.random.Generator(np.random.Philox(key=42))
    x, e = rng.standard_normal((2, ROWS, SIZE)).astype("float32")
    t = rng.uniform(0.1, 0.9, ROWS).astype("float32")
    r = np.where(np.arange(ROWS) % 4 == 3, 0.3 * t, t).astype("float32")
    labels = np.arange(ROWS, dtype="int32") % CLASSES
    return {"x": x, "e": e, "t": t, "r": r, "labels": labels, "drop": np.arange(ROWS) % 7 == 3}


def main():
    import meanflow as theirs
    import torch

    drawn = {k: torch.from_numpy(v) for k, v in draws().items()}
    x, e = (drawn[k].double().reshape(-1, *SHAPE) for k in ("x", "e"))
    r, t = drawn["r"].double(), drawn["t"].double()
    labels = torch.where(drawn["drop"], NULL, drawn["labels"].long())
    results = {}
    for name, scale in SCALES.items():
        numbers = {k: torch.from_numpy(v).double().requires_grad_() for k, v in weights().items()}

        def network(z, t, r, y, numbers=numbers):
            inputs = [z.reshape(len(z), -1), t[:, None], r[:, None], y[:, :CLASSES].double()]
            hidden = torch.tanh(torch.cat(inputs, dim=1) @ numbers["a"] + numbers["b"])
            return (hidden @ numbers["c"]).reshape(z.shape)

        omega = max(1.0, scale - 1.0)
        method = theirs.MeanFlow(network, p=P, pc=C, class_dropout=0.0, w=omega, w_pi=scale)
        method.sample_t_and_r_re2_truncate = lambda rows, device: (t, r, None)
        loss = method.loss_edm(x, labels, noise=e)["loss"]
        loss.backward()
        results[f"{name}/loss"] = loss.item()
        results |= {f"{name}/{k}": v.grad.numpy().astype("float32") for k, v in numbers.items()}
    np.savez_compressed(PATH, **results)


if __name__ == "__main__":
    main()
