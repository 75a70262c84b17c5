"""Networks that learn the difference between the data and its noisy condition."""

import abc
from typing import Any

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.around import Around
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.parts.part import register
from keras_meanflow.parts.rows import per_row


class AroundCondition(Around, abc.ABC):
    """u from a network f and the condition y itself; a subclass writes `combine`.

    Args:
        network: f, whose condition is one array of the data's shape, alone or by a name. In
            training its condition may become a dict with more in it, as for a `UNet`.

    Raises:
        ValueError: for a network with another condition.
    """

    def __init__(self, network: Network, **kwargs: Any) -> None:
        super().__init__(network, **kwargs)
        if network.num_classes is not None or [*self._shapes.values()] != [self.data_shape]:
            raise ValueError(
                f"{type(self).__name__} needs a network whose condition is one array of the data's "
                f"shape, {self.data_shape}, without labels. Received: num_classes="
                f"{network.num_classes}, condition_shape={network.condition_shape}."
            )

    @abc.abstractmethod
    def combine(self, f: Tensor, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """u from f, z and y (B, ...) and t (B,)."""

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity, float32 of the shape of `z`."""
        y = self.by_name(condition)[self._required[0]]
        return self.combine(self.network(z, r, t, condition), z, t, y)


@register
class ConditionResidual(AroundCondition):
    """`u(z, r, t, y) = z - y + f(z, r, t, y)`: for data that end at a noisy condition y.

    On `NoisyToClean` at t = 1, z - y is the noise that was added. So f must learn only y - x, and
    no noise: a small f learns this quickly. The derivative of z - y is v.

    Args:
        network: f, see `AroundCondition`.

    Example:
        >>> network = ConditionResidual(UNet.ncsnpp(image_size=(128, 64), width=16))
    """

    def combine(self, f: Tensor, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """See `AroundCondition.combine`."""
        del t
        return z - y + f


@register
class ComplexMask(AroundCondition):
    """`u(z, r, t, y) = (z - x) / t`, `x = (1 - f) y`, for spectrograms.

    f and y are complex: pairs of real numbers on the last axis. x is the end of a jump from z to
    t = 0, for any noise in z. f scales and rotates each complex number of y. It is 0 where y is
    speech, so that the network need not learn the phase, and 1 where y is noise. On `NoisyToClean`
    with sigma_min = 0 all rows with r = t learn the same x; at t = 1 it is the mean of all x that
    fit y.

    At small t the division turns small errors of x into large errors of u. So use a loss that
    weights rows by their error, as `AdaptiveLoss` does. Times below `least` count as `least`.

    Args:
        network: f, see `AroundCondition`.
        least: the smallest time to divide by.

    Raises:
        ValueError: for a network that takes labels, or a `least` that is not positive.

    Example:
        >>> network = ComplexMask(TCN(bins=128, frames=64))
    """

    def __init__(self, network: Network, *, least: float = 0.01, **kwargs: Any) -> None:
        if not least > 0.0:
            raise ValueError(f"least, a time to divide by, exceeds 0. Received: {least}.")
        super().__init__(network, **kwargs)
        self.least = least

    def combine(self, f: Tensor, z: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """See `AroundCondition.combine`."""
        (a, b), (c, d) = (f[..., 0], f[..., 1]), (y[..., 0], y[..., 1])
        x = y - ops.stack([a * c - b * d, a * d + b * c], axis=-1)
        return (z - x) / per_row(ops.maximum(t, self.least), z)

    def get_config(self) -> dict:
        """The network and the smallest time."""
        return {**super().get_config(), "least": self.least}
