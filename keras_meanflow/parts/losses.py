"""Losses of a batch's rows, the squared error summed over a sample."""

import keras
from keras import ops

from keras_meanflow.parts.part import register


def squared_norm(d):
    """`||d||^2` of each row, (B,)."""
    return ops.sum(ops.square(d), axis=tuple(range(1, len(d.shape))))


def mean_square(d):
    """The mean of `d^2` over each row, (B,)."""
    return ops.mean(ops.square(d), axis=tuple(range(1, len(d.shape))))


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

    size = staticmethod(squared_norm)

    def call(self, y_true, y_pred):
        """(B,) losses of `y_true, y_pred`: (B, ...)."""
        error = self.size(y_pred - y_true)
        return error / ops.stop_gradient((error + self.c) ** self.p)

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "p": self.p, "c": self.c}


@register
class AdaptiveQuartic(AdaptiveLoss):
    """`||d||^4 / sg(||d||^4 + c)^p`: as the released MF-RAE code squares the summed error first.

    At p = 1 its gradient has the direction of `AdaptiveLoss` and, where `||d||^4` exceeds c, twice
    the length.

    Args:
        p: power.
        c: floor of the weight, 0.001.

    References:
        sony/mf-rae `training_losses_mfd`.
    """

    def __init__(self, p=1.0, c=1e-3, *, name="adaptive_quartic", **kwargs):
        super().__init__(p, c, name=name, **kwargs)

    @staticmethod
    def size(d):
        """`||d||^4` of each row, (B,)."""
        return squared_norm(d) ** 2


@register
class MeanAdaptiveLoss(AdaptiveLoss):
    """`m / sg(m + c)^p`, m the mean squared error over the sample: c weighs each coordinate.

    It is `AdaptiveLoss` with D c for c, times `D^(p - 1)`, for data of D numbers.

    Args:
        p: power; 0.5 in Re-MeanFlow, where the loss is a pseudo-Huber one.
        c: floor of the weight.

    References:
        Re-MeanFlow (arXiv 2511.23342); Xinxi-Zhang/Re-MeanFlow `get_loss`, with the values of its
        README.
    """

    def __init__(
        self,
        p=0.5,
        c=0.01,
        *,
        name="mean_adaptive_loss",
        reduction="sum_over_batch_size",
        dtype="float32",
    ):
        super().__init__(p, c, name=name, reduction=reduction, dtype=dtype)

    size = staticmethod(mean_square)


@register
class LogMSE(keras.losses.Loss):
    """`log(m + c)`, m the mean squared error over the sample: `AdaptiveLoss` with p = 1 by a mean.

    What `ReleasedLogMSE` comes to where its log variance is 0, as it is at first.

    Args:
        c: floor of the error.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `log_lv_loss`.
    """

    def __init__(self, c=0.01, *, name="log_mse", reduction="sum_over_batch_size", dtype="float32"):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.c = c

    def call(self, y_true, y_pred):
        """(B,) losses of `y_true, y_pred`: (B, ...)."""
        return ops.log(mean_square(y_pred - y_true) + self.c)

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "c": self.c}
