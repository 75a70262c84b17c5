"""Makes `metrics_weights.*`: one state dict as torch (both formats) and safetensors write it.

Run by hand beside torch 2.13 and safetensors:
    python tests/golden/metrics_weights.py
"""

from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def state():
    """Arrays by name; `brain` is exact in bfloat16."""
    rng = np.random.Generator(np.random.Philox(key=77))
    return {
        "linear.weight": rng.normal(size=(3, 4)).astype("float32"),
        "half": rng.normal(size=5).astype("float16"),
        "brain": (rng.integers(-128, 128, size=(2, 3)) / 16).astype("float32"),
        "steps": np.array([7, -(2**40)]),
        "mask": np.array([True, False, True]),
    }


def main():
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.from_numpy(x) for name, x in state().items()}
    tensors["brain"] = tensors["brain"].bfloat16()
    torch.save(tensors, HERE / "metrics_weights.pt")
    torch.save(tensors, HERE / "metrics_weights.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, HERE / "metrics_weights.safetensors")


if __name__ == "__main__":
    main()
