"""Weights of rows by their times."""

import abc

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.ranges import check_within
from keras_meanflow.parts.schedules import Power, Schedule, value_at


@part
class ProgressiveGap(Configurable):
    """`beta(gap, s) = 1 - s + lambda s (1 - gap)` of rows with r < t: short gaps first, then all.

    It multiplies the loss after its adaptive normalisation. `lambda = 1 / E[1 - gap]` over the
    rows with r < t of the sampler in use, so that the mean weight is 1 throughout. At s = 1 a row
    with gap 1 has no weight; at s = 0 all rows weigh the same.

    Args:
        s: a number or a schedule; the paper's `1 - p^k`, k = 1.

    Example:
        >>> MeanFlow(beta=ProgressiveGap(s=Power(start=1.0, end=0.0, exponent=2.0)))

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), section 5.
    """

    s: float | Schedule = Power(start=1.0, end=0.0)

    def __post_init__(self):
        check_within("[0, 1]", s=self.s)

    def __call__(self, gap: Tensor, mean_gap: Tensor, progress: Tensor | float) -> Tensor:
        """(B,) weights for `gap` = t - r, (B,)."""
        s = value_at(self.s, progress)
        return 1.0 - s + s * (1.0 - gap) / (1.0 - mean_gap)


class TimeWeight(Configurable, abc.ABC):
    """A weight of rows with r = t by their t, applied after the adaptive normalisation."""

    gamma: float
    scale: float | Schedule

    def __post_init__(self):
        check_within("(0, inf)", gamma=self.gamma)
        check_within("[0, inf)", scale=self.scale)

    @abc.abstractmethod
    def __call__(self, t: Tensor, progress: Tensor | float) -> Tensor:
        """(B,) weights for times t of shape (B,)."""


@part
class MinSNRVelocity(TimeWeight):
    """`alpha(t) = scale min(SNR, gamma) / (SNR + 1)`, `SNR = ((1 - t) / t)^2`.

    The MinSNR weight as published for v-prediction, with the SNR of the straight path. Our notes on
    the MeanFlow paper do not say which formula it uses; `MinSNRData` is the other candidate.

    Args:
        gamma: where the SNR is cut off; the weight is largest at `t = 1 / (1 + sqrt(gamma))`.
        scale: a number or a schedule. Over `LogitNormal(-0.4, 1)`, t the larger of two draws, the
            weight's mean is 0.399 at scale 1.

    References:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (arXiv 2303.09556);
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), Eq. 8.
    """

    gamma: float = 5.0
    scale: float | Schedule = 1.0

    def __call__(self, t: Tensor, progress: Tensor | float) -> Tensor:
        """See `TimeWeight.__call__`."""
        # Numerator and denominator are multiplied by t^2: finite at t = 0.
        snr_weight = ops.minimum((1.0 - t) ** 2, self.gamma * t**2) / (t**2 + (1.0 - t) ** 2)
        return value_at(self.scale, progress) * snr_weight


@part
class MinSNRData(TimeWeight):
    """`alpha(t) = scale t^2 min(SNR, gamma) = scale min((1 - t)^2, gamma t^2)`.

    The MinSNR weight `min(SNR, gamma)` of the data error, carried over to the velocity error by
    `x - x_hat = t (v_hat - v)`. Our notes on the MeanFlow paper do not say which formula it uses;
    `MinSNRVelocity` is the other candidate.

    Args:
        gamma: where the SNR is cut off.
        scale: a number or a schedule. Over `LogitNormal(-0.4, 1)`, t the larger of two draws, the
            weight's mean is 0.215 at scale 1.

    References:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (arXiv 2303.09556).
    """

    gamma: float = 5.0
    scale: float | Schedule = 1.0

    def __call__(self, t: Tensor, progress: Tensor | float) -> Tensor:
        """See `TimeWeight.__call__`."""
        return value_at(self.scale, progress) * ops.minimum((1.0 - t) ** 2, self.gamma * t**2)
