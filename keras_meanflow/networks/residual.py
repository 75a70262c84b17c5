"""A network that learns what the noise added to its condition does not explain."""

import keras

from keras_meanflow.configurable import register
from keras_meanflow.networks.base import Network


@register
class ConditionResidual(Network):
    """`u(z, r, t, y) = z - y + f(z, r, t, y)`: for data that end at a noisy condition y.

    On `NoisyToClean` at t = 1, z - y is the noise that was added, so that f has only y - x to
    learn, and no noise to copy: a small f does it soon. The derivative of z - y is v.

    Args:
        network: f, whose condition is an array of the data's shape.

    Raises:
        ValueError: for a network that takes labels.

    Example:
        >>> network = ConditionResidual(UNet.ncsnpp(image_size=(128, 64), width=16))
    """

    def __init__(self, network, **kwargs):
        if network.num_classes is not None:
            raise ValueError("ConditionResidual needs a network whose condition is an array alone.")
        super().__init__(
            data_shape=network.data_shape, condition_shape=network.data_shape, **kwargs
        )
        self.network = network
        self.built = True

    def call(self, z, r, t, condition=None):
        """The average velocity, float32 of the shape of `z`."""
        return z - condition + self.network(z, r, t, condition)

    def get_config(self):
        """The network."""
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config):
        """The network around the one of this configuration."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})
