"""Guidance in training: the velocity that the network is to learn is already the guided one."""

from keras import ops

from keras_meanflow.configurable import Configurable, part


@part
class Guidance(Configurable):
    """`v_g = omega v + kappa u(z, t, t | c) + (1 - omega - kappa) u(z, t, t | null)`.

    The effective scale is `omega / (1 - kappa)`. Outside `[start, end]`, and on rows whose label
    is dropped, `v_g = v`.

    Args:
        omega: weight of the conditional velocity `v = e - x`.
        kappa: weight of the network's own conditional velocity, below 1.
        start, end: times between which guidance applies.

    Example:
        >>> MeanFlow(guidance=Guidance(omega=1.0, kappa=0.5))  # effective scale 2

    References:
        Mean Flows (arXiv 2505.13447), Eq. 19 and 21; Gsunshine/meanflow `guidance_fn`.
    """

    omega: float = 1.0
    kappa: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not 0.0 <= self.kappa < 1.0:
            raise ValueError(f"kappa must lie in [0, 1). Received: {self.kappa}.")
        if not self.start <= self.end:
            raise ValueError(f"start must not exceed end. Received: {self.start}, {self.end}.")

    @property
    def needs_null(self):
        """Whether the unconditional velocity has any weight."""
        return self.omega + self.kappa != 1.0

    def weights(self, t, drop):
        """omega, kappa and the null weight of each row, each (B,)."""
        active = ops.logical_and(t >= self.start, t <= self.end)
        active = ops.logical_and(active, ops.logical_not(drop))
        omega = ops.where(active, self.omega, 1.0)
        kappa = ops.where(active, self.kappa, 0.0)
        return omega, kappa, 1.0 - omega - kappa
