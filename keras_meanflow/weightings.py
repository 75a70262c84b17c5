"""Losses: the squared error summed over a sample, weighted row by row."""

import keras
from keras import ops

from keras_meanflow.configurable import register


def squared_norm(d):
    """`||d||^2` of each row, (B,)."""
    return ops.sum(ops.square(d), axis=tuple(range(1, len(d.shape))))


@register
class SquaredError(keras.losses.Loss):
    """`||y_pred - y_true||^2`, summed over the sample."""

    def __init__(self, name="squared_error", reduction="sum_over_batch_size", dtype="float32"):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true, y_pred):
        """(B,) losses of `y_true, y_pred`: (B, ...)."""
        return squared_norm(y_pred - y_true)


@register
class AdaptiveLoss(keras.losses.Loss):
    """`||d||^2 / sg(||d||^2 + c)^p` with the squared error d summed over the sample.

    With p = 1 the value sits near 1 whatever the error: watch `u_error` and `v_error` instead.

    Args:
        p: power; 1 on ImageNet, 0.75 on CIFAR-10, 0 for the plain squared error.
        c: floor of the weight; 0.01 in the official ImageNet code (1e-3 in the paper's text and in
            the CIFAR-10 code).

    References:
        Mean Flows (arXiv 2505.13447), Eq. 22; Gsunshine/meanflow `forward`.
    """

    def __init__(
        self,
        p=1.0,
        c=0.01,
        *,
        name="adaptive_loss",
        reduction="sum_over_batch_size",
        dtype="float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.p, self.c = p, c

    def call(self, y_true, y_pred):
        """(B,) losses of `y_true, y_pred`: (B, ...)."""
        error = squared_norm(y_pred - y_true)
        return error / ops.stop_gradient((error + self.c) ** self.p)

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "p": self.p, "c": self.c}
