"""Networks around another one take the condition that it takes, whatever it is."""

import keras
import numpy as np
import pytest
from oracles import randomise

from keras_meanflow import FlowMap, FlowMatching, UNet
from keras_meanflow.networks import TCN, ComplexMask, ConditionResidual, NoisePrediction

SMALL = {"image_size": (4, 8), "width": 8, "multipliers": (1, 2), "blocks": 1}
Y = np.random.default_rng(0).standard_normal((3, 4, 8, 2)).astype("float32")


def _unet(**kwargs):
    return randomise(UNet.ncsnpp(**SMALL, **kwargs))


@pytest.mark.parametrize("around", [NoisePrediction, ConditionResidual])
def test_a_network_around_another_has_its_condition(around):
    """`NoisePrediction` around a network with a context called itself unconditional."""
    inner = _unet()
    network = around(inner)
    assert network.conditional and network.condition_shape == inner.condition_shape
    assert network.condition_inputs().shape == inner.condition_inputs().shape
    flow_map = FlowMap(network, FlowMatching(label_dropout=0.0), averages=())
    alone = flow_map.generate(Y, verbose=0)
    np.testing.assert_allclose(flow_map.generate({"context": Y}, verbose=0), alone, atol=1e-6)
    for wrong in (3, {"other": Y}, Y[:, :2], {"context": Y * np.nan}):
        with pytest.raises(ValueError, match="condition|context"):
            flow_map.generate(wrong)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(network))
    assert again.get_config() == network.get_config()


def test_the_condition_of_a_residual_has_the_shape_of_the_data():
    ComplexMask(TCN(bins=4, frames=4, width=8, depth=1))
    wide = UNet(**SMALL, channels=2, context_channels=3)
    with pytest.raises(ValueError, match="one array of the data's shape"):
        ConditionResidual(wide)
    with pytest.raises(ValueError, match="without labels"):
        ConditionResidual(UNet(**SMALL, channels=2, context_channels=2, num_classes=3))
