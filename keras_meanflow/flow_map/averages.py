"""Averages of a network's weights, with warm-up."""

from keras import ops

from keras_meanflow.backend import lerp


class Averages:
    """Exponential averages of weights, one for each decay, kept beside the raw weights.

    After n updates the decay is `min(decay, (1 + n) / (10 + n))`: a short training is not averaged
    with its random start. Until the first update an average equals the raw weights.

    Args:
        decays: of the averages, each in [0, 1).
        weights: the raw weights, variables.
        make: from a weight to a new variable with its value.

    Raises:
        ValueError: for a decay outside [0, 1), or the same one twice.
    """

    def __init__(self, decays, weights, make):
        self.decays = tuple(decays)
        different = len(set(self.decays)) == len(self.decays)
        if not different or any(not 0.0 <= decay < 1.0 for decay in self.decays):
            raise ValueError(f"averages are different decays in [0, 1). Received: {self.decays}.")
        self._copies = {decay: [make(weight) for weight in weights] for decay in self.decays}

    def of(self, decay):
        """The variables of one average.

        Raises:
            ValueError: for a decay that is not kept.
        """
        if decay not in self._copies:
            raise ValueError(
                f"average is one of {self.decays} or None, the raw weights. Received: {decay}."
            )
        return self._copies[decay]

    def update(self, weights, updates, moved):
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
