"""What FlowMap asks of a network."""

import abc

import keras
import numpy as np
from keras import ops


class Network(keras.Model, abc.ABC):
    """A network `u(z, r, t, condition)`; a subclass writes `call` and builds itself.

    Inputs are not cast to the compute dtype on the way in: times stay float32 up to the time
    embedding (bfloat16 has no 0.9987), and the subclass casts z itself. Outputs are float32.

    Args:
        data_shape: shape of one sample without the batch axis.
        num_classes: number of classes, or None for an unconditional network. Label `num_classes`
            is the null label.
    """

    def __init__(self, *, data_shape, num_classes=None, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.data_shape = tuple(data_shape)
        self.num_classes = num_classes

    @abc.abstractmethod
    def call(self, z, r, t, condition=None):
        """The average velocity between r and t at z: `z` (B, ...), `r, t` (B,)."""

    @property
    def conditional(self):
        """Whether the network takes a condition."""
        return self.num_classes is not None

    def drop_condition(self, condition, drop):
        """The condition with the null label on the rows where `drop` (B,) is True."""
        return ops.where(drop, ops.cast(self.num_classes, condition.dtype), condition)

    def check_condition(self, condition):
        """Raise a ValueError if an array of labels is not one this network knows."""
        if self.num_classes is None:
            if condition is None:
                return
            raise ValueError("This network is unconditional: it takes no labels.")
        if condition is None:
            raise ValueError(f"This network needs labels 0..{self.num_classes - 1}. Received none.")
        labels = np.asarray(condition)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"Labels are integers of shape (n,). Received: {labels.dtype} of {labels.shape}."
            )
        wrong = labels[(labels < 0) | (labels > self.num_classes)]
        if wrong.size:
            raise ValueError(
                f"Labels must lie in 0..{self.num_classes - 1} (or {self.num_classes}, the null "
                f"label). Received: {sorted(set(wrong.tolist()))[:5]}."
            )

    def get_build_config(self):
        """Nothing: the constructor builds."""
        return {}

    def build_from_config(self, config):
        """Nothing: the constructor has built."""
