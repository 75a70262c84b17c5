"""Commands in this process, and a finished run of a user's own task."""

import pytest
from click.testing import CliRunner

from keras_meanflow import cli

OWN = '''
import keras
import numpy as np
from keras_meanflow import FlowMap
from keras_meanflow.networks import MLP
from keras_meanflow.data import ArraySource
from keras_meanflow.recipe import task
from keras_meanflow.training import Training

@task
def mine(*, steps: int = 6, learning_rate: float = 1e-2, seed: int = 0, highest: int = 2):
    """Three classes of points."""
    keras.utils.set_random_seed(seed)
    network = MLP(data_size=2, width=8, depth=1, num_classes=3)
    flow_map = FlowMap(network, averages=(0.9,), horizon=steps, seed=seed)
    flow_map.compile(keras.optimizers.Adam(learning_rate))
    y = np.arange(30) % (highest + 1)
    x = np.random.default_rng(0).standard_normal((30, 2)).astype("float32") + y[:, None]
    data = ArraySource(x.astype("float32"), y)
    return Training(flow_map=flow_map, data=data, batch_size=8, steps=steps, sample_labels=[0, 1])
'''


def call(*arguments):
    """Runs a command in this process; its output and exit code."""
    done = CliRunner().invoke(cli.main, [str(a) for a in arguments], prog_name="keras-meanflow")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output, done.exit_code


def refusal(*arguments):
    """The one line of a command that fails."""
    output, code = call(*arguments)
    lines = output.splitlines()
    assert code == 1 and lines[-1].startswith("Error: "), output
    return lines[-1]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A user's recipe, and a finished run of it."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.py").write_text(OWN)
    output, code = call("train", folder / "own.py", "--run", folder / "run")
    assert code == 0 and "6 steps, 6 of them now" in output, output
    return folder
