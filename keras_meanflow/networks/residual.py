"""Networks that learn in what data differ from their noisy condition."""

import abc

import keras
from keras import ops

from keras_meanflow.networks.base import Network
from keras_meanflow.parts.part import register
from keras_meanflow.parts.rows import per_row


class AroundCondition(Network, abc.ABC):
    """u from a network f and the condition y itself; a subclass writes `combine`.

    Args:
        network: f, whose condition is an array of the data's shape. While it trains it may be told
            more: then its condition is a dict, as a `UNet`'s, in which the array is `context`.

    Raises:
        ValueError: for a network that takes labels.
    """

    def __init__(self, network, **kwargs):
        if network.num_classes is not None:
            raise ValueError(
                f"{type(self).__name__} needs a network whose condition is an array alone."
            )
        super().__init__(
            data_shape=network.data_shape, condition_shape=network.data_shape, **kwargs
        )
        self.network = network
        self.built = True

    @abc.abstractmethod
    def combine(self, f, z, t, y):
        """u of f, z and y (B, ...) and t (B,)."""

    def call(self, z, r, t, condition=None):
        """The average velocity, float32 of the shape of `z`."""
        y = condition["context"] if isinstance(condition, dict) else condition
        return self.combine(self.network(z, r, t, condition), z, t, y)

    def training_condition(self, condition, keys, rows):
        """See `Network.training_condition`."""
        return self.network.training_condition(condition, keys, rows)

    def drop_condition(self, condition, drop):
        """See `Network.drop_condition`."""
        return self.network.drop_condition(condition, drop)

    def get_config(self):
        """The network."""
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config):
        """The network around the one of this configuration."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})


@register
class ConditionResidual(AroundCondition):
    """`u(z, r, t, y) = z - y + f(z, r, t, y)`: for data that end at a noisy condition y.

    On `NoisyToClean` at t = 1, z - y is the noise that was added, so that f has only y - x to
    learn, and no noise to copy: a small f does it soon. The derivative of z - y is v.

    Args:
        network: f, see `AroundCondition`.

    Example:
        >>> network = ConditionResidual(UNet.ncsnpp(image_size=(128, 64), width=16))
    """

    def combine(self, f, z, t, y):
        """See `AroundCondition.combine`."""
        del t
        return z - y + f


@register
class ComplexMask(AroundCondition):
    """`u(z, r, t, y) = (z - x) / t`, `x = (1 - f) y`, f and y complex: real pairs, of spectrograms.

    x is where a jump from z to t = 0 ends, whatever noise z has. f is a gain and a turn of each
    complex number of y: 0 where y is speech, so that its phase need not be learned to be kept, and
    1 where y is noise. On `NoisyToClean` with sigma_min = 0 all rows with r = t learn one x, at
    t = 1 the mean of all that fit y.

    The division makes errors of x large ones of u at small t: weigh rows by their error, as
    `AdaptiveLoss` does. Times below `least` count as it.

    Args:
        network: f, see `AroundCondition`.
        least: the least time to divide by.

    Raises:
        ValueError: for a network that takes labels, or a time that is not positive.

    Example:
        >>> network = ComplexMask(TCN(bins=128, frames=64))
    """

    def __init__(self, network, *, least=0.01, **kwargs):
        if not least > 0.0:
            raise ValueError(f"least, a time to divide by, exceeds 0. Received: {least}.")
        super().__init__(network, **kwargs)
        self.least = least

    def combine(self, f, z, t, y):
        """See `AroundCondition.combine`."""
        (a, b), (c, d) = (f[..., 0], f[..., 1]), (y[..., 0], y[..., 1])
        x = y - ops.stack([a * c - b * d, a * d + b * c], axis=-1)
        return (z - x) / per_row(ops.maximum(t, self.least), z)

    def get_config(self):
        """The network and the least time."""
        return {**super().get_config(), "least": self.least}
