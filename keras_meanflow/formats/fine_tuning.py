"""Turns a flow model into the start of a flow map: an input for r, and the same output at r = t."""

import numpy as np
from keras import ops

from keras_meanflow.formats.names import named_weights
from keras_meanflow.networks import DiT, DiTDH, Network, NoisePrediction


def add_interval(network: Network) -> Network:
    """Add an input t - r to a flow model; the output does not change until it is trained.

    The last layer of the new embedding starts at zero, so the output is the flow model's for every
    r. The new `time_scale` is 1, because a larger one multiplies du/dt.

    Args:
        network: a `DiT` or `DiTDH` with the one time input "t" or "1-t", and no split; or a
            `NoisePrediction` around one, where both inputs are in the DDPM's time.

    Raises:
        ValueError: for another network, or one that already has an input for r.

    Example:
        >>> network = add_interval(load_network("SiT-XL-2-256.pt", "sit"))
        >>> flow_map = FlowMap(network, MeanFlow(guidance=Guidance(omega=1.0, kappa=0.5)))

    References:
        The initialisation of zhuyu-cs/MeanFlow's fine-tuning of SiT.
    """
    if isinstance(network, NoisePrediction):
        return network.around(add_interval(network.network))
    config = _flow_config(network, (DiT, DiTDH))
    config |= {"time_inputs": (*network.time_inputs, "t-r")}
    if "time_scale" in config:
        scale = np.atleast_1d(network.time_scale).tolist()[0]
        config |= {"time_scale": (scale, 1.0)}
    grown = _with_weights_of(network, config)
    last = grown.times[-1].out
    for weight in (last.kernel, last.bias):
        weight.assign(np.zeros(weight.shape))
    return grown


def decouple(network: Network, split_depth: int) -> Network:
    """Make a flow model a Decoupled MeanFlow: its last blocks get r instead of t.

    No weight is added. At r = t the output is the flow model's bit for bit. A network with the
    inputs ("t", "t-r") loses the second one: the embedding of t - r = 0 becomes part of a bias, and
    the output at r = t is the same up to rounding.

    Args:
        network: a `DiT` with the one time input "t" or "1-t", or with ("t", "t-r") and trained at
            r = t, or a `NoisePrediction` around one.
        split_depth: number of blocks that still get t: 20 of 28 in the paper's XL/2, 18 of 24
            in its L/2, and about two thirds elsewhere.

    Raises:
        ValueError: for a network with other time inputs or a split, or a split depth outside
            0..depth.

    Example:
        >>> network = decouple(load_network("SiT-XL-2-256.pt", "sit"), split_depth=20)

    References:
        Decoupled MeanFlow (arXiv 2510.24474).
    """
    if isinstance(network, NoisePrediction):
        return network.around(decouple(network.network, split_depth))
    if isinstance(network, DiT) and network.time_inputs == ("t", "t-r"):
        network = _at_r_equal_t(network)
    return _with_weights_of(network, {**_flow_config(network, DiT), "split_depth": split_depth})


def _at_r_equal_t(network):
    """The network with the one input "t" that computes what this one does at r = t."""
    scale = np.broadcast_to(network.time_scale, 2).tolist()[0]
    config = {**network.get_config(), "time_inputs": ("t",), "time_scale": scale}
    made = _with_weights_of(network, config)
    bias, at_zero = made.times[0].out.bias, network.times[1](ops.zeros((1,)))[0]
    bias.assign(ops.convert_to_numpy(bias) + ops.convert_to_numpy(at_zero))
    return made


def _flow_config(network, kinds):
    single = isinstance(network, kinds) and network.time_inputs in (("t",), ("1-t",))
    if not single or getattr(network, "split_depth", None) is not None:
        known = (getattr(network, name, None) for name in ("time_inputs", "split_depth"))
        raise ValueError(
            "A flow model must be a DiT with the one time input 't' or '1-t', without a split. "
            "Received: {}, time_inputs={}, split_depth={}.".format(type(network).__name__, *known)
        )
    return network.get_config()


def _with_weights_of(network, config):
    made, old = type(network).from_config(config), named_weights(network)
    for name, variable in named_weights(made).items():
        if name in old:
            variable.assign(ops.copy(old[name].value))  # JAX donates buffers: never share one
    return made
