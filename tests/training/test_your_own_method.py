"""docs/extend/method.md: its objective and its method run as they stand there."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from keras import ops
from small_data import write_arrays
from small_runs import JIT

from keras_meanflow import cli, open_model
from keras_meanflow.backend.random import Keys
from keras_meanflow.objectives import SplitMeanFlow, split_mean_flow

GUIDE = Path(__file__).parents[2] / "docs" / "extend" / "method.md"
OBJECTIVE, METHOD = (
    part.split("```")[0] for part in GUIDE.read_text("utf-8").split("```python\n")[1:3]
)
IMPORTS = Path(split_mean_flow.__file__).read_text("utf-8").split("@part")[0]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A user's file with the guide's objective and method."""
    path = tmp_path_factory.mktemp("own") / "halfway_mean_flow.py"
    path.write_text(IMPORTS + OBJECTIVE + "\n\n" + METHOD)
    return path


@pytest.fixture(scope="module")
def objective():
    names = {}
    exec(compile(IMPORTS + OBJECTIVE, str(GUIDE), "exec"), names)
    return names["HalfwayMeanFlow"]()


def test_the_objective_of_the_guide_is_split_mean_flow_at_half(objective):
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor(rng.standard_normal((16, 3, 2)).astype("float32"))
    field = lambda z, r, t, c=None: ops.sin(z) + ops.reshape(t * t - r, (-1, 1, 1))  # noqa: E731
    found, expected = (
        one(field, x, None, one.draw(Keys(seed=0, step=1), x)).target
        for one in (objective, SplitMeanFlow(splits=(0.5, 0.5)))
    )
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (found, expected)), atol=1e-6)


@pytest.mark.any_backend
@pytest.mark.parametrize("task", ["gaussian", "digits", "mnist"])
def test_the_method_of_the_guide_runs_on_a_task_from_the_command_line(task, file, tmp_path):
    settings = dict(steps=2, batch_size=4, width=8, depth=1, jit_compile=JIT, sample_every="none")
    settings |= {"mnist": dict(data=write_arrays("mnist", tmp_path), patch_size=14)}.get(task, {})
    settings |= {} if task == "gaussian" else dict(heads=2, warmup_steps=1)
    texts = [part for k, v in settings.items() for part in ("--set", f"{k}={v}")]
    run = ["--method", str(file), "--run", str(tmp_path / "run"), "--quiet"]
    done = CliRunner().invoke(cli.main, ["train", task, *run, *texts])
    assert done.exit_code == 0, done.output
    flow_map = open_model(tmp_path / "run").flow_map
    assert type(flow_map.objective).__name__ == "HalfwayMeanFlow"
    assert flow_map.batches_done == 2
