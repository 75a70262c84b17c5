"""A checkpoint that is damaged or of another model is refused; training does not go on with it."""

import keras
import numpy as np
import pytest
from small_runs import JIT

from keras_meanflow import FlowMap, Guidance, MeanFlow
from keras_meanflow.data import ArraySource
from keras_meanflow.networks import MLP
from keras_meanflow.objectives import FlowMatching
from keras_meanflow.parts import Uniform
from keras_meanflow.training import Training
from keras_meanflow.training.run import restore, train


def training(objective=None, width=8, steps=2, **network):
    network = MLP(data_size=2, width=width, depth=1, num_classes=3, **network)
    flow_map = FlowMap(network, objective or MeanFlow(), averages=(0.9,))
    flow_map.compile(keras.optimizers.Adam(1e-3), jit_compile=JIT)
    data = ArraySource(np.ones((8, 2), "float32"), np.arange(8) % 3)
    return Training(
        flow_map=flow_map, data=data, batch_size=4, steps=steps, sample_labels=[0], log_every=2
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(training(), folder, verbose=0)
    return folder


def newest(run):
    return max((run / "checkpoints").glob("*.keras"))


@pytest.mark.parametrize(
    "other, named",
    [
        ({"objective": FlowMatching()}, "objective was 'MeanFlow', now 'FlowMatching'"),
        ({"objective": MeanFlow(times=Uniform())}, "objective.times was 'LogitNormal', now"),
        ({"objective": MeanFlow(guidance=Guidance(omega=2.0))}, "objective.guidance was None"),
        ({"objective": MeanFlow(label_dropout=0.3)}, "objective.label_dropout was 0.1, now 0.3"),
        ({"time_scale": 7.0}, "network.time_scale was 1.0, now 7.0"),
        ({"width": 16}, "network.width was 8, now 16"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_the_name_of_what_differs(run, other, named):
    with pytest.raises(ValueError, match=f"is a checkpoint of another model: {named}"):
        restore(training(**other).flow_map, run)


def test_the_same_model_goes_on(run):
    assert restore(training(steps=4).flow_map, run) == 2
