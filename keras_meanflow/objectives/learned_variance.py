"""Losses with a learned log variance of the error, and the layer that computes it."""

import abc

import keras
from keras import layers, ops

from keras_meanflow.networks.layers import sinusoids
from keras_meanflow.parts.losses import mean_square, squared_norm
from keras_meanflow.parts.part import register


@register
class LogVariance(layers.Layer):
    """A learned log variance of the error at (r, t): linear in 128 sinusoids of each; 0 at first.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `DMFT(use_logvar=True)`.
    """

    frequencies = 128

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs}, autocast=False)
        self.out = layers.Dense(1, kernel_initializer="zeros", dtype="float32")

    def build(self, input_shape):
        """Build the linear map."""
        self.out.build((None, 2 * self.frequencies))

    def call(self, r, t):
        """(B,) of times (B,)."""
        waves = [sinusoids(time, self.frequencies) for time in (t, r)]
        return self.out(ops.concatenate(waves, axis=1))[:, 0]


class LearnedVarianceLoss(keras.losses.Loss, abc.ABC):
    """A loss that also takes a log variance phi(r, t), which is trained along with the network.

    A subclass writes `robust`. The prediction is a dict of `u` (B, ...) and `log_variance` (B,). A
    `FlowMap` keeps the `layer` that computes the latter, since a loss holds no variables.
    """

    layer = LogVariance

    def call(self, y_true, y_pred):
        """(B,) losses of `y_true` (B, ...) and the dict `y_pred`."""
        return self.robust(y_pred["u"] - y_true, y_pred["log_variance"])

    @abc.abstractmethod
    def robust(self, d, phi):
        """(B,) losses of errors d (B, ...) at log variances phi (B,)."""


@register
class Cauchy(LearnedVarianceLoss):
    """`log(exp(-phi) ||d||^2 + 1) + phi / 2`, least at `phi = log ||d||^2`.

    The paper's loss, by the notes on it; its released code computes `ReleasedLogMSE`.

    References:
        Decoupled MeanFlow (arXiv 2510.24474), Eq. 6.
    """

    def __init__(self, name="cauchy", reduction="sum_over_batch_size", dtype="float32"):
        super().__init__(name=name, reduction=reduction, dtype=dtype)

    def robust(self, d, phi):
        """See `LearnedVarianceLoss.robust`."""
        return ops.log(ops.exp(-phi) * squared_norm(d) + 1.0) + 0.5 * phi  # Eq. 6


@register
class ReleasedLogMSE(LearnedVarianceLoss):
    """`log(exp(-phi_i) m_j + c) + phi_i`, the mean over all rows i of a branch, for each row j.

    m is the mean squared error. It equals `log(m_j + c exp(phi_i))`, which rises in phi: what is
    learned only lowers the floor c, unlike in `Cauchy`. That each error meets the variances of all
    rows is an accident of shapes, (B, 1, 1, 1) and (B,), in the code that the published models
    were trained with. `LogMSE` is the same but for this and for phi, which stays near 0.

    Args:
        c: floor of the error.
        branches: into how many parts, one after the other, the rows are split.

    References:
        Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf `log_lv_loss`.
    """

    def __init__(
        self,
        c=0.01,
        branches=2,
        *,
        name="released_log_mse",
        reduction="sum_over_batch_size",
        dtype="float32",
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.c, self.branches = c, branches

    def robust(self, d, phi):
        """See `LearnedVarianceLoss.robust`."""
        phi = ops.reshape(phi, (self.branches, -1, 1))
        m = ops.reshape(mean_square(d), (self.branches, 1, -1))
        return ops.reshape(ops.mean(ops.log(ops.exp(-phi) * m + self.c) + phi, axis=1), (-1,))

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "c": self.c, "branches": self.branches}
