"""Averages of a network's weights, with warm-up."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_meanflow.backend import Tensor, lerp


class Averages:
    """Exponential averages of weights, one for each decay, kept beside the raw weights.

    After n updates the decay is `min(decay, (1 + n) / (10 + n))`. So the average of a short
    training does not contain its random start. Until the first update an average equals the raw
    weights. An average belongs to its weight, whatever is frozen or added later. It is float32:
    in bfloat16 it would not move, since a step is less than half of its last bit.

    Args:
        decays: one for each average, in [0, 1).
        make: returns a new float32 variable with the value of a weight.

    Raises:
        ValueError: for a decay outside [0, 1), or the same one twice.
    """

    def __init__(self, decays: Sequence[float], make: Callable):
        self.decays, self._make = tuple(decays), make
        different = len(set(self.decays)) == len(self.decays)
        if not different or any(not 0.0 <= decay < 1.0 for decay in self.decays):
            raise ValueError(f"averages are different decays in [0, 1). Received: {self.decays}.")
        self._pairs = {decay: {} for decay in self.decays}  # id of a weight -> (weight, average)

    def pairs(self, decay: float) -> list[tuple[keras.Variable, keras.Variable]]:
        """Each weight with its average, in the order of `follow`.

        Raises:
            ValueError: for a decay that is not kept.
        """
        if decay not in self._pairs:
            raise ValueError(
                f"average is one of {self.decays} or None, the raw weights. Received: {decay}."
            )
        return list(self._pairs[decay].values())

    def of(self, decay: float, weights: list[keras.Variable]) -> list[keras.Variable]:
        """The average of each of some weights; see `pairs`."""
        found = {id(weight): average for weight, average in self.pairs(decay)}
        return [found[id(weight)] for weight in weights]

    def follow(self, weights: list[keras.Variable], *, copy: bool) -> None:
        """Make an average for each weight that has none; with `copy`, set all to the weights."""
        for pairs in self._pairs.values():
            for weight in weights:
                if id(weight) not in pairs:
                    pairs[id(weight)] = weight, self._make(weight)
                elif copy:
                    _copy(weight, pairs[id(weight)][1])

    def update(self, updates: Tensor, moved: Tensor) -> None:
        """Move each average towards its weight, after an optimizer step.

        Args:
            updates: number of updates before this one, a scalar.
            moved: a boolean scalar: whether the weights have moved; if not, nothing changes.
        """
        n = ops.cast(updates, "float32")
        for decay, pairs in self._pairs.items():
            amount = 1.0 - ops.minimum(decay, (1.0 + n) / (10.0 + n))
            averages = [average for _, average in pairs.values()]
            weights = [weight for weight, _ in pairs.values()]
            lerp(averages, weights, ops.where(moved, amount, 0.0))


def _copy(weight, average):
    average.assign(ops.copy(weight.value))  # JAX donates buffers: never share one
