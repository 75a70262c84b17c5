"""Paths from data to noise or to other data: `x, e, t -> z_t, v`. No path sees a network."""

import abc

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.rows import per_row


class Path(Configurable, abc.ABC):
    """From data x at t = 0 to `start(e)` at t = 1; a subclass writes `__call__` and `start`."""

    @abc.abstractmethod
    def __call__(self, x: Tensor, e: Tensor | dict, t: Tensor) -> tuple[Tensor, Tensor]:
        """`z_t` and its velocity `v`, both with the shape of `x`."""

    @abc.abstractmethod
    def start(self, e: Tensor | dict) -> Tensor:
        """`z_1`, where sampling starts."""


@part
class Linear(Path):
    """The straight path `z_t = (1 - t) x + t e` with velocity `v = e - x`; t = 1 is noise.

    Example:
        >>> z, v = Linear()(x, e, t)  # x, e: (B, ...), t: (B,)

    References:
        Mean Flows for One-step Generative Modeling (arXiv 2505.13447), section 3.
    """

    def __call__(self, x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Path.__call__`."""
        t = per_row(t, x)
        return (1.0 - t) * x + t * e, e - x

    def start(self, e: Tensor) -> Tensor:
        """`e`."""
        return e


@part
class NoisyToClean(Path):
    """From clean x to noisy y: `z_t = (1 - t) x + t y + sigma_t n`, n noise.

    `sigma_t = (1 - t) sigma_min + t sigma_max` and `v = y - x + (sigma_max - sigma_min) n`. The
    path is straight, so jumps, velocities and the MeanFlow identity are the same as for `Linear`.
    With sigma_min = 0 it is `Linear` with `e = y + sigma_max n`. Use it with `FromCondition`,
    whose e has y and n.

    Args:
        sigma_min: factor of the noise n at t = 0.
        sigma_max: factor of the noise n at t = 1.

    Raises:
        ValueError: for a negative sigma.

    Example:
        >>> z, v = NoisyToClean()(clean, {"y": noisy, "n": noise}, t)

    References:
        MeanFlowSE (arXiv 2509.14858); liduojia1/MeanFlowSE `odes.py`.
    """

    sigma_min: float = 0.0
    sigma_max: float = 0.487

    def __post_init__(self):
        if self.sigma_min < 0.0 or self.sigma_max < 0.0:
            raise ValueError(
                "sigma_min and sigma_max must be at least 0. "
                f"Received: {self.sigma_min} and {self.sigma_max}."
            )

    def __call__(self, x: Tensor, e: dict, t: Tensor) -> tuple[Tensor, Tensor]:
        """See `Path.__call__`."""
        t, y, n = per_row(t, x), e["y"], e["n"]
        sigma = (1.0 - t) * self.sigma_min + t * self.sigma_max
        return (1.0 - t) * x + t * y + sigma * n, y - x + (self.sigma_max - self.sigma_min) * n

    def start(self, e: dict) -> Tensor:
        """`z_1 = y + sigma_max n`."""
        return e["y"] + self.sigma_max * e["n"]
