"""Losses of a batch's rows, from the squared error summed over each sample."""

from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_within


def squared_norm(d: Tensor) -> Tensor:
    """`||d||^2` of each row, (B,)."""
    return ops.sum(ops.square(d), axis=tuple(range(1, len(d.shape))))


def mean_square(d: Tensor) -> Tensor:
    """The mean of `d^2` over each row, (B,)."""
    return ops.mean(ops.square(d), axis=tuple(range(1, len(d.shape))))


@register
class SquaredError(keras.losses.Loss):
    """`||y_pred - y_true||^2`, summed over the sample."""

    def __init__(
        self,
        name: str = "squared_error",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(B,) losses of `y_true` and `y_pred`, both (B, ...)."""
        return squared_norm(y_pred - y_true)


@register
class AdaptiveLoss(keras.losses.Loss):
    """`||d||^2 / sg(||d||^2 + c)^p` with the squared error summed over the sample.

    With p = 1 the value sits near 1 whatever the error: watch `u_error` and `v_error` instead.

    Args:
        p: power; 1 on ImageNet, 0.75 on CIFAR-10, 0 for the plain squared error.
        c: floor of the weight; 0.01 in the official ImageNet code (1e-3 in the paper's text and in
            the CIFAR-10 code).

    Raises:
        ValueError: for a negative power, or a floor that is not positive.

    References:
        Mean Flows (arXiv 2505.13447), Eq. 22; Gsunshine/meanflow `forward`.
    """

    def __init__(
        self,
        p: float = 1.0,
        c: float = 0.01,
        *,
        name: str = "adaptive_loss",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_within("[0, inf)", p=p)
        check_within("(0, inf)", c=c)
        self.p, self.c = p, c

    size = staticmethod(squared_norm)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(B,) losses of `y_true` and `y_pred`, both (B, ...)."""
        error = self.size(y_pred - y_true)
        return error / ops.stop_gradient((error + self.c) ** self.p)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "p": self.p, "c": self.c}


@register
class AdaptiveQuartic(AdaptiveLoss):
    """`||d||^4 / sg(||d||^4 + c)^p`: the released MF-RAE code squares the summed error first.

    At p = 1 its gradient has the direction of the `AdaptiveLoss` gradient. Where `||d||^4` exceeds
    c, it has twice the length.

    Args:
        p: power.
        c: floor of the weight, 0.001.

    References:
        sony/mf-rae `training_losses_mfd`.
    """

    def __init__(
        self, p: float = 1.0, c: float = 1e-3, *, name: str = "adaptive_quartic", **kwargs: Any
    ):
        super().__init__(p, c, name=name, **kwargs)

    @staticmethod
    def size(d: Tensor) -> Tensor:
        """`||d||^4` of each row, (B,)."""
        return squared_norm(d) ** 2


@register
class MeanAdaptiveLoss(AdaptiveLoss):
    """`m / sg(m + c)^p`, m the mean squared error over the sample: c is an error per coordinate.

    For data of D numbers it is `D^(p - 1)` times the `AdaptiveLoss` with D c in place of c.

    Args:
        p: power; 0.5 in Re-MeanFlow, where it is a pseudo-Huber loss.
        c: floor of the weight.

    References:
        Re-MeanFlow (arXiv 2511.23342); Xinxi-Zhang/Re-MeanFlow `get_loss`, with the
        values of its README.
    """

    def __init__(
        self,
        p: float = 0.5,
        c: float = 0.01,
        *,
        name: str = "mean_adaptive_loss",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ):
        super().__init__(p, c, name=name, reduction=reduction, dtype=dtype)

    size = staticmethod(mean_square)


@register
class LogMSE(keras.losses.Loss):
    """`log(m + c)`, m the mean squared error: the gradient of `MeanAdaptiveLoss` with p = 1.

    `ReleasedLogMSE` equals it while its log variance is 0, as at the start of training.

    Args:
        c: floor of the error.

    Raises:
        ValueError: for a floor that is not positive.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `log_lv_loss`.
    """

    def __init__(
        self,
        c: float = 0.01,
        *,
        name: str = "log_mse",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        check_within("(0, inf)", c=c)
        self.c = c

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(B,) losses of `y_true` and `y_pred`, both (B, ...)."""
        return ops.log(mean_square(y_pred - y_true) + self.c)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "c": self.c}
