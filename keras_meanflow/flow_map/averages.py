"""Averages of a network's weights, with warm-up."""

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_meanflow.backend import Tensor, lerp


class Averages:
    """Exponential averages of weights, one for each decay, kept beside the raw weights.

    After n updates the decay is `min(decay, (1 + n) / (10 + n))`. So the average of a short
    training does not contain its random start. Until the first update an average equals the raw
    weights.

    Args:
        decays: one for each average, in [0, 1).
        weights: the raw weights, variables.
        make: returns a new variable with the value of a weight.

    Raises:
        ValueError: for a decay outside [0, 1), or the same one twice.
    """

    def __init__(self, decays: Sequence[float], weights: list[keras.Variable], make: Callable):
        self.decays = tuple(decays)
        different = len(set(self.decays)) == len(self.decays)
        if not different or any(not 0.0 <= decay < 1.0 for decay in self.decays):
            raise ValueError(f"averages are different decays in [0, 1). Received: {self.decays}.")
        self._copies = {decay: [make(weight) for weight in weights] for decay in self.decays}

    def of(self, decay: float) -> list[keras.Variable]:
        """The variables of one average.

        Raises:
            ValueError: for a decay that is not kept.
        """
        if decay not in self._copies:
            raise ValueError(
                f"average is one of {self.decays} or None, the raw weights. Received: {decay}."
            )
        return self._copies[decay]

    def update(self, weights: list[keras.Variable], updates: Tensor, moved: Tensor) -> None:
        """Move each average towards the weights.

        Args:
            weights: the raw weights after an optimizer step.
            updates: number of updates before this one, a scalar.
            moved: a boolean scalar: whether the weights have moved; if not, nothing changes.
        """
        n = ops.cast(updates, "float32")
        for decay, copies in self._copies.items():
            amount = 1.0 - ops.minimum(decay, (1.0 + n) / (10.0 + n))
            lerp(copies, weights, ops.where(moved, amount, 0.0))
