"""Losses with a learned log variance of the error, and the layer that computes it."""

import abc
from typing import Any

import keras
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.layers import sinusoids
from keras_meanflow.parts.losses import mean_square, squared_norm
from keras_meanflow.parts.part import register


@register
class LogVariance(layers.Layer):
    """A learned log variance of the error at (r, t), initially 0: linear in 128 sinusoids of each.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `DMFT(use_logvar=True)`.
    """

    frequencies = 128

    def __init__(self, **kwargs: Any):
        super().__init__(**{"dtype": "float32", **kwargs}, autocast=False)
        self.out = layers.Dense(1, kernel_initializer="zeros", dtype="float32")

    def build(self, input_shape: Any) -> None:
        """Build the linear map."""
        self.out.build((None, 2 * self.frequencies))

    def call(self, r: Tensor, t: Tensor) -> Tensor:
        """(B,) log variances at times r and t, (B,)."""
        waves = [sinusoids(time, self.frequencies) for time in (t, r)]
        return self.out(ops.concatenate(waves, axis=1))[:, 0]


class LearnedVarianceLoss(keras.losses.Loss, abc.ABC):
    """A loss that also takes a log variance phi(r, t), trained together with the network.

    A subclass writes `robust`. The prediction is a dict of `u` (B, ...) and `log_variance` (B,). A
    loss holds no variables, so a `FlowMap` keeps the `layer` that computes `log_variance`.
    """

    layer = LogVariance

    def call(self, y_true: Tensor, y_pred: dict[str, Tensor]) -> Tensor:
        """(B,) losses of `y_true` (B, ...) and the dict `y_pred`."""
        return self.robust(y_pred["u"] - y_true, y_pred["log_variance"])

    @abc.abstractmethod
    def robust(self, d: Tensor, phi: Tensor) -> Tensor:
        """(B,) losses of errors d (B, ...) with log variances phi (B,)."""


@register
class Cauchy(LearnedVarianceLoss):
    """`log(exp(-phi) ||d||^2 + 1) + phi / 2`, smallest at `phi = log ||d||^2`.

    This is the paper's loss, according to our notes; its code computes `ReleasedLogMSE`.

    References:
        Decoupled MeanFlow (arXiv 2510.24474), Eq. 6.
    """

    def __init__(
        self,
        name: str = "cauchy",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def robust(self, d: Tensor, phi: Tensor) -> Tensor:
        """See `LearnedVarianceLoss.robust`."""
        return ops.log(ops.exp(-phi) * squared_norm(d) + 1.0) + 0.5 * phi  # Eq. 6


@register
class ReleasedLogMSE(LearnedVarianceLoss):
    """`log(exp(-phi_i) m_j + c) + phi_i`, the mean over all rows i of a branch, for each row j.

    m is the mean squared error. Each term equals `log(m_j + c exp(phi_i))`, which rises with phi.
    So phi only learns to lower the floor c, unlike in `Cauchy`. Each error is combined with the
    variances of all rows only because the code that trained the published models broadcasts
    (B, 1, 1, 1) with (B,). `LogMSE` is the same without this, and without phi, which stays near 0.

    Args:
        c: floor of the error.
        branches: number of consecutive parts into which the rows are split.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `log_lv_loss`.
    """

    def __init__(
        self,
        c: float = 0.01,
        branches: int = 2,
        *,
        name: str = "released_log_mse",
        reduction: str = "sum_over_batch_size",
        dtype: str = "float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.c, self.branches = c, branches

    def robust(self, d: Tensor, phi: Tensor) -> Tensor:
        """See `LearnedVarianceLoss.robust`."""
        phi = ops.reshape(phi, (self.branches, -1, 1))
        m = ops.reshape(mean_square(d), (self.branches, 1, -1))
        return ops.reshape(ops.mean(ops.log(ops.exp(-phi) * m + self.c) + phi, axis=1), (-1,))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "c": self.c, "branches": self.branches}
