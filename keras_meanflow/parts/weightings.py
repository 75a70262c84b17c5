"""Weights of rows by their times, with means that are tabulated over the law of (r, t).

Each weight is `a + b shape(x)`, with x = t on rows with r = t and x = t - r on rows with r < t. So
its mean over the rows follows from the mean of the shape, which a `TimeSampler` tabulates.
"""

import abc

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.ranges import check_within
from keras_meanflow.parts.schedules import Power, Schedule, value_at


class RowWeight(Configurable, abc.ABC):
    """A weight of rows, applied to the loss after its adaptive normalisation.

    A subclass writes `shape` and `of_shape`, which is affine in the shape.
    """

    @abc.abstractmethod
    def shape(self, x: Tensor) -> Tensor:
        """(B,) values of the shape for `x`, (B,)."""

    @abc.abstractmethod
    def of_shape(self, shape: Tensor, mean_shape: Tensor, progress: Tensor | float) -> Tensor:
        """The weight of a value of the shape; `mean_shape` is the shape's mean over the rows."""

    def __call__(self, x: Tensor, mean_shape: Tensor | float, progress: Tensor | float) -> Tensor:
        """(B,) weights for `x`, (B,), given the mean of the shape over the rows."""
        return self.of_shape(self.shape(x), mean_shape, progress)

    def mean(self, mean_shape: Tensor | float, progress: Tensor | float) -> Tensor | float:
        """The mean weight over the rows."""
        return self.of_shape(mean_shape, mean_shape, progress)


class GapWeight(RowWeight):
    """A weight of rows with r < t by their gap x = t - r."""


@part
class ProgressiveGap(GapWeight):
    """`beta(gap, s) = 1 - s + lambda s (1 - gap)` of rows with r < t: short gaps first, then all.

    `lambda = 1 / E[1 - gap]` over the rows with r < t of the sampler in use, so that the mean
    weight is 1 throughout. At s = 1 a row with gap 1 has no weight; at s = 0 all rows weigh the
    same.

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

    def shape(self, x: Tensor) -> Tensor:
        """`1 - gap`."""
        return 1.0 - x

    def of_shape(self, shape: Tensor, mean_shape: Tensor, progress: Tensor | float) -> Tensor:
        """See `RowWeight.of_shape`."""
        s = value_at(self.s, progress)
        return 1.0 - s + s * shape / mean_shape


@part
class FallingGap(GapWeight):
    """`w(gap) = 1 / ((1 + decay gap) sqrt(1 + square gap^2))` of rows with r < t, fixed in time.

    It is at most 1. Over the rows with r < t of `LogitNormal(-0.4, 1)` its mean is 0.875.

    Args:
        decay, square: 0.5 and 1 in TEMF. These constants are second-hand: the notes of others name
            them, and no public code confirms them.

    References:
        Tu et al., TEMF (CVPR 2026).
    """

    decay: float = 0.5
    square: float = 1.0

    def __post_init__(self):
        check_within("[0, inf)", decay=self.decay, square=self.square)

    def shape(self, x: Tensor) -> Tensor:
        """See the class."""
        return 1.0 / ((1.0 + self.decay * x) * ops.sqrt(1.0 + self.square * x**2))

    def of_shape(self, shape: Tensor, mean_shape: Tensor, progress: Tensor | float) -> Tensor:
        """The shape itself."""
        del mean_shape, progress
        return shape


class TimeWeight(RowWeight):
    """A weight of rows with r = t by x = t: `scale shape(t)`, or `scale shape(t) / E[shape]`.

    A subclass writes `shape` and has the fields `gamma`, `scale` and `normalise`. With
    `normalise` the mean weight over the rows with r = t is `scale`, whatever the law of t.
    """

    gamma: float
    scale: float | Schedule
    normalise: bool

    def __post_init__(self):
        check_within("(0, inf)", gamma=self.gamma)
        check_within("[0, inf)", scale=self.scale)

    def of_shape(self, shape: Tensor, mean_shape: Tensor, progress: Tensor | float) -> Tensor:
        """See `RowWeight.of_shape`."""
        return value_at(self.scale, progress) * (shape / mean_shape if self.normalise else shape)


@part
class MinSNRVelocity(TimeWeight):
    """`alpha(t) = scale min(SNR, gamma) / (SNR + 1)`, `SNR = ((1 - t) / t)^2`.

    The MinSNR weight as published for v-prediction, with the SNR of the straight path. Over
    `LogitNormal(-0.4, 1)`, t the larger of two draws, its mean is 0.399, and it is 0 at t = 1.

    Our notes on the MeanFlow paper do not say which formula it uses. There are three candidates:
    this one, `MinSNRData`, and `MinSNRNoise`, which the code of the authors' group suggests.

    Args:
        gamma: where the SNR is cut off; the weight is largest at `t = 1 / (1 + sqrt(gamma))`.
        scale: a number or a schedule.
        normalise: divide by the tabulated mean over the rows with r = t, so that it is `scale`.

    References:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (arXiv 2303.09556);
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), Eq. 8.
    """

    gamma: float = 5.0
    scale: float | Schedule = 1.0
    normalise: bool = False

    def shape(self, x: Tensor) -> Tensor:
        """`min(SNR, gamma) / (SNR + 1)`."""
        return ops.minimum((1.0 - x) ** 2, self.gamma * x**2) / (x**2 + (1.0 - x) ** 2)


@part
class MinSNRData(TimeWeight):
    """`alpha(t) = scale t^2 min(SNR, gamma) = scale min((1 - t)^2, gamma t^2)`.

    The MinSNR weight `min(SNR, gamma)` of the data error, carried over to the velocity error by
    `x - x_hat = t (v_hat - v)`. Over `LogitNormal(-0.4, 1)`, t the larger of two draws, its mean is
    0.215, and it is 0 at t = 1. See `MinSNRVelocity` for the other candidates.

    Args:
        gamma: where the SNR is cut off.
        scale: a number or a schedule.
        normalise: divide by the tabulated mean over the rows with r = t, so that it is `scale`.

    References:
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (arXiv 2303.09556).
    """

    gamma: float = 5.0
    scale: float | Schedule = 1.0
    normalise: bool = False

    def shape(self, x: Tensor) -> Tensor:
        """`min((1 - t)^2, gamma t^2)`."""
        return ops.minimum((1.0 - x) ** 2, self.gamma * x**2)


@part
class MinSNRNoise(TimeWeight):
    """`alpha(t) = scale min(SNR, gamma) / SNR = scale min(1, gamma (t / (1 - t))^2)`.

    The MinSNR weight as published for noise prediction. The earlier public code of the MeanFlow
    paper's group uses this form for every target except the data itself. That the paper uses it too
    is a guess. Over `LogitNormal(-0.4, 1)`, t the larger of two draws, its mean is 0.947: it needs
    no constant. It is 1 for `t >= 1 / (1 + sqrt(gamma))`, which is 0.309, and less below.

    Args:
        gamma: where the SNR is cut off; 5 in that code.
        scale: a number or a schedule.
        normalise: divide by the tabulated mean over the rows with r = t, so that it is `scale`.

    Example:
        >>> MeanFlow(alpha=MinSNRNoise(), beta=ProgressiveGap())

    References:
        byeongjun-park/DTR and byeongjun-park/Switch-DiT, `gaussian_diffusion.py`, `min_snr_5`;
        Hang et al., Efficient Diffusion Training via Min-SNR Weighting Strategy (arXiv 2303.09556).
    """

    gamma: float = 5.0
    scale: float | Schedule = 1.0
    normalise: bool = False

    def shape(self, x: Tensor) -> Tensor:
        """`min(1, gamma (t / (1 - t))^2)`."""
        clean = ops.maximum(1.0 - x, 1e-12)  # finite at t = 1
        return ops.minimum(1.0, self.gamma * (x / clean) ** 2)
