"""Couplings: which noise `e` belongs to which data `x`."""

import abc
from typing import Any

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.ranges import check_within


class Coupling(Configurable, abc.ABC):
    """Says which `e` belongs to which `x`; a subclass writes `__call__`.

    `e` is what the path takes: an array of the data's shape, or a dict of arrays.
    """

    @abc.abstractmethod
    def __call__(
        self, keys: Keys, x: Tensor | dict, condition: Any = None
    ) -> tuple[Tensor, Tensor | dict]:
        """`x` and `e` of a batch: a pure function of `keys` and the arguments."""

    def of_noise(self, noise: Tensor, condition: Any) -> Tensor | dict:
        """The `e` from which sampling starts: standard normal noise of the data's shape."""
        del condition
        return noise


@part
class Independent(Coupling):
    """Fresh Gaussian noise for every row and step."""

    def __call__(
        self, keys: Keys, x: Tensor | dict, condition: Any = None
    ) -> tuple[Tensor, Tensor | dict]:
        """`x` and `e ~ N(0, I)` of the same shape."""
        del condition
        if isinstance(x, dict):
            raise ValueError(
                "Data with stored noise, {'x', 'e'}, needs coupling=StoredPairs(). "
                f"Received keys {sorted(x)} with coupling=Independent()."
            )
        return x, keys.normal("e", ops.shape(x))


@part
class StoredPairs(Coupling):
    """Noise that is stored with the data: `fit({"x": x, "e": e}, y)`.

    References:
        Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342).
    """

    def __call__(
        self, keys: Keys, x: Tensor | dict, condition: Any = None
    ) -> tuple[Tensor, Tensor | dict]:
        """The stored `x` and `e`."""
        del keys, condition
        if not isinstance(x, dict) or set(x) != {"x", "e"}:
            raise ValueError(
                "coupling=StoredPairs() needs data of the form {'x': ..., 'e': ...}. "
                f"Received: {sorted(x) if isinstance(x, dict) else type(x).__name__}."
            )
        return x["x"], x["e"]


@part
class FromCondition(Coupling):
    """`e = {"y": condition, "n": noise}`: the path ends at the condition, as `NoisyToClean` does.

    The condition has the data's shape: noisy speech for clean speech, a damaged image for an
    intact one. The network may also see it as its condition.

    Args:
        name: key of the array, where the condition is a dict; None where it is an array.
        std: standard deviation of each number of the noise: sqrt(1/2) for complex numbers with
            `E|n|^2 = 1` that are stored as real pairs.

    Raises:
        ValueError: for a negative std, for a condition without such an array, or for data with
            stored noise.

    Example:
        >>> MeanFlow(coupling=FromCondition(), path=NoisyToClean(), label_dropout=0.0)

    References:
        MeanFlowSE (arXiv 2509.14858).
    """

    name: str | None = None
    std: float = 1.0

    def __post_init__(self):
        check_within("[0, inf)", std=self.std)

    def __call__(
        self, keys: Keys, x: Tensor | dict, condition: Any = None
    ) -> tuple[Tensor, Tensor | dict]:
        """`x` and `e`, with new noise for every row and step."""
        x, noise = Independent()(keys, x)
        return x, self.of_noise(noise, condition)

    def of_noise(self, noise: Tensor, condition: Any) -> Tensor | dict:
        """See `Coupling.of_noise`."""
        y = condition
        if self.name is not None:
            y = condition.get(self.name) if isinstance(condition, dict) else None
        if y is None or isinstance(y, dict) or tuple(y.shape[1:]) != tuple(noise.shape[1:]):
            wanted = "an array" if self.name is None else f"a dict whose {self.name!r} is an array"
            raise ValueError(
                f"{self} needs a condition that is {wanted} of the data's shape "
                f"{tuple(noise.shape[1:])}. Received: {_described(condition)}."
            )
        return {"y": ops.cast(y, "float32"), "n": self.std * noise}


def _described(condition):
    if isinstance(condition, dict):
        return {name: tuple(array.shape) for name, array in condition.items()}
    return getattr(condition, "shape", condition)
