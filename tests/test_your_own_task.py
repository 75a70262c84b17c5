"""The code of docs/guide/conditions.md, at a reduced size."""

import re
from pathlib import Path

import numpy as np
import pytest

from keras_meanflow.backend import BACKEND

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "conditions.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
NAMES = ["noisy images to clean ones", "filling a hole"]


@pytest.mark.any_backend
@pytest.mark.parametrize("block", BLOCKS, ids=NAMES)
def test_the_page_runs_as_it_stands_but_for_its_size(block, tmp_path, capsys):
    assert sum(bool(line.strip()) for line in block.splitlines()) < 60
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (8, 32, 32, 3)).astype("uint8")
    labels = np.arange(8)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    before = 'DATA, WIDTH, EPOCHS = "eurosat32.npz", 32, 10'
    assert before in block
    block = block.replace(before, f"DATA, WIDTH, EPOCHS = {str(path)!r}, 8, 1")
    block = block.replace("batch_size=32", "batch_size=8").replace("(1, 2, 2)", "(1,)")
    if BACKEND != "jax":  # single operations start sooner than compiled steps
        block = block.replace("compile(", "compile(jit_compile=False, optimizer=")
    names = {}
    exec(compile(block, str(PAGE), "exec"), names)
    samples = names.get("enhanced", names.get("filled"))
    assert samples.shape == (8, 32, 32, 3) and np.isfinite(samples).all()
    assert "enhanced" not in names or "in one step" in capsys.readouterr().out
