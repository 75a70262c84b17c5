"""A flow model becomes the start of a flow map with the same output at r = t."""

import numpy as np
import pytest
from golden import weights_formats as golden
from keras import ops
from oracles import randomise

from keras_meanflow.formats.fine_tuning import add_interval, decouple
from keras_meanflow.networks import MLP, DiT, NoisePrediction

SMALL = {"image_size": 8, "channels": 3, "patch_size": 2, "width": 24, "depth": 2, "heads": 3}
DIT = {"time_inputs": ("t",), "time_scale": 1000.0}
SIT = {"time_inputs": ("1-t",), "unused_channels": 3}


def u(network, r):
    z, _, t, labels, _ = golden.inputs()
    return ops.convert_to_numpy(network(z, t if r is None else r, t, labels))


def test_an_interval_or_a_split_keeps_the_velocity_of_a_ddpm_at_r_equal_t():
    flow = NoisePrediction(randomise(DiT(**SMALL, num_classes=5, **DIT)))
    _, r, _, _, _ = golden.inputs()
    expected = u(flow, None)
    network = add_interval(flow)
    np.testing.assert_array_equal(u(network, None), expected)
    np.testing.assert_array_equal(u(network, r), expected)
    network.network.times[-1].out.kernel.assign(np.ones((24, 24)))
    assert np.abs(u(network, r) - expected).max() > 1e-3
    split = decouple(flow, split_depth=1)
    np.testing.assert_array_equal(u(split, None), expected)
    assert np.abs(u(split, r) - expected).max() > 1e-3
    with pytest.raises(ValueError, match="one time input"):
        add_interval(network)


@pytest.mark.parametrize("kind", [DIT, SIT])
def test_an_interval_keeps_the_output_of_a_flow_model_until_it_is_trained(kind):
    flow = randomise(DiT(**SMALL, num_classes=5, **kind))
    network = add_interval(flow)
    _, r, _, _, _ = golden.inputs()
    expected = u(flow, None)
    np.testing.assert_array_equal(u(network, None), expected)
    np.testing.assert_array_equal(u(network, r), expected)
    assert network.time_inputs == (*flow.time_inputs, "t-r")
    network.times[-1].out.kernel.assign(np.ones((24, 24)))
    assert np.abs(u(network, r) - expected).max() > 1e-3
    with pytest.raises(ValueError, match="one time input.*time_inputs=.*'t-r'"):
        add_interval(network)
    with pytest.raises(ValueError, match="Received: MLP"):
        add_interval(MLP(data_size=2))


def test_a_split_keeps_the_output_of_a_flow_model_at_r_equal_t():
    flow = randomise(DiT(**SMALL, num_classes=5, **SIT))
    network = decouple(flow, split_depth=1)
    _, r, _, _, _ = golden.inputs()
    np.testing.assert_array_equal(u(network, None), u(flow, None))
    assert np.abs(u(network, r) - u(flow, None)).max() > 1e-3
    with pytest.raises(ValueError, match="split_depth=1"):
        decouple(network, split_depth=1)


def test_a_network_with_an_interval_is_decoupled_at_r_equal_t():
    flow_map = randomise(DiT(**SMALL, num_classes=5))
    network = decouple(flow_map, split_depth=1)
    assert (network.time_inputs, network.split_depth) == (("t",), 1)
    np.testing.assert_allclose(u(network, None), u(flow_map, None), rtol=1e-4, atol=1e-5)
