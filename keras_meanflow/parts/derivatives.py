"""How a target's du/dt is computed: by forward mode, or by a difference of two network calls."""

import abc
from collections.abc import Callable

from keras import ops

from keras_meanflow.backend import Tensor, jvp
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.rows import per_row


class Derivative(Configurable, abc.ABC):
    """The directional derivative of `u(*primals)` along `tangents`; a subclass writes `__call__`.

    `u` is any callable of `z, r, t`. Along `(v, 0, 1)` it is `du/dt = v . grad_z u + d_t u`.
    """

    @abc.abstractmethod
    def __call__(
        self, u: Callable, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> Tensor:
        """The derivative, with the shape of u's output; no gradient flows through it."""


@part
class ForwardMode(Derivative):
    """The exact derivative by a forward-mode product; it costs two forward passes.

    Example:
        >>> du_dt = ForwardMode()(u, (z, r, t), (v, 0.0 * r, 1.0 + 0.0 * t))
    """

    def __call__(
        self, u: Callable, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> Tensor:
        """See `Derivative.__call__`."""
        return jvp(u, primals, tangents)[1]


class Difference(Derivative):
    """A central difference: two forward passes. A subclass writes `length`, the step."""

    step: float

    def __post_init__(self):
        if not self.step > 0.0:
            raise ValueError(f"step must exceed 0. Received: {self.step}.")

    @abc.abstractmethod
    def length(self, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
        """The step h of each row, (B,)."""

    def __call__(
        self, u: Callable, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> Tensor:
        """`(u(p + h d) - u(p - h d)) / 2h`; see `Derivative.__call__`."""
        h = self.length(primals, tangents)
        moves = [per_row(h, d) * d for d in tangents]
        ahead = u(*(p + move for p, move in zip(primals, moves, strict=True)))
        behind = u(*(p - move for p, move in zip(primals, moves, strict=True)))
        return (ahead - behind) / (2.0 * per_row(h, ahead))


@part
class CentralDifference(Difference):
    """`(u(z + h v, r, t + h) - u(z - h v, r, t - h)) / 2h`: for layers without forward mode.

    Its error falls with h^2 until rounding takes over, at about `1e-7 |u| / h` in float32. So
    compute in float32, not in bfloat16. t may leave [0, 1] by h: it is not clipped.

    Args:
        step: h. One-step FID of MF-RAE on ImageNet: exact 1.96; h = 1e-4 5.63, 1e-3 2.06,
            5e-3 2.03, 1e-2 2.17.

    Raises:
        ValueError: for a step that is not positive.

    Example:
        >>> MeanFlow(derivative=CentralDifference(step=5e-3))

    References:
        MeanFlow Transformers with Representation Autoencoders (MF-RAE), `training_losses_mfd`.
    """

    step: float = 5e-3

    def length(self, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
        """See `Difference.length`."""
        del tangents
        return self.step * ops.ones_like(primals[-1])


@part
class ScaledCentralDifference(Difference):
    """A central difference whose step follows the size of the row: `h = step (|z| + |v|)`.

    |z| is the length of the vector of channels, averaged over positions. For a spectrogram of real
    pairs this length is the modulus.

    Args:
        step: step size relative to `|z| + |v|`.

    Raises:
        ValueError: for a step that is not positive.

    Example:
        >>> MeanFlow(derivative=ScaledCentralDifference())

    References:
        liduojia1/MeanFlowSE `_fd_jvp_chunked`.
    """

    step: float = 1e-3

    def length(self, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
        """See `Difference.length`."""
        return self.step * ops.maximum(_mean_length(primals[0]) + _mean_length(tangents[0]), 1e-6)


@part
class ClippedDerivative(Derivative):
    """Another derivative: each row's norm is clipped, then multiplied by a coefficient.

    This is no longer the MeanFlow identity. For a spectrogram of 256 x 256 with MeanFlowSE's noise,
    the norm of v is at least about `0.487 * 256 = 125`, and the correction `(t - r) du/dt` is at
    most `0.97 * 0.5 * 5 = 2.4`. So the target stays within 2 % of v, and training is nearly flow
    matching with one more input. One step then gives about the mean of all clean speech that fits
    the noisy one: a high SI-SDR, a modest PESQ.

    Args:
        derivative: the derivative to clip.
        coefficient: factor after the clipping.
        largest: largest norm of a whole row.

    Raises:
        ValueError: for numbers that are not positive.

    Example:
        >>> MeanFlow(derivative=ClippedDerivative(coefficient=0.5, largest=5.0))

    References:
        liduojia1/MeanFlowSE `_safe_jvp`, `mf_first_order_coef`.
    """

    derivative: Derivative = ForwardMode()
    coefficient: float = 0.5
    largest: float = 5.0

    def __post_init__(self):
        if not (self.coefficient > 0.0 and self.largest > 0.0):
            raise ValueError(
                "coefficient and largest must exceed 0. "
                f"Received: {self.coefficient} and {self.largest}."
            )

    def __call__(
        self, u: Callable, primals: tuple[Tensor, ...], tangents: tuple[Tensor, ...]
    ) -> Tensor:
        """See `Derivative.__call__`."""
        du_dt = self.derivative(u, primals, tangents)
        norm = ops.sqrt(ops.sum(ops.square(du_dt), axis=tuple(range(1, len(du_dt.shape)))))
        scale = self.coefficient * ops.minimum(self.largest / (norm + 1e-12), 1.0)
        return per_row(scale, du_dt) * du_dt


def _mean_length(a):
    """The length of the vector of channels, averaged over positions, (B,)."""
    length = ops.sqrt(ops.sum(ops.square(a), axis=-1))
    return ops.mean(ops.reshape(length, (ops.shape(a)[0], -1)), axis=1)
