"""Guidance in training: the velocity that the network is to learn is already the guided one."""

from keras import ops

from keras_meanflow.configurable import Configurable, part
from keras_meanflow.schedules import Schedule, bounds_of, value_at


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

    @property
    def needs_own(self):
        """Whether the network's own conditional velocity has any weight."""
        return self.kappa > 0.0

    def draw(self, keys):
        """What a step's guidance draws: nothing."""
        del keys

    def weights(self, draws):
        """omega, kappa and the null weight of each row, each (B,)."""
        t = draws.t
        active = ops.logical_and(t >= self.start, t <= self.end)
        active = ops.logical_and(active, ops.logical_not(draws.drop))
        omega = ops.where(active, self.omega, 1.0)
        kappa = ops.where(active, self.kappa, 0.0)
        return omega, kappa, 1.0 - omega - kappa


@part
class RandomGuidance(Configurable):
    """A scale `w ~ U(1, largest)` a step: `omega = max(1, w - 1)`, `kappa = 1 - omega / w`.

    The effective scale is w. Rows whose label is dropped have the null velocity in the place of
    the conditional one, `omega v + (1 - omega) u(z, t, t | null)`, as in the authors' code.

    Args:
        largest: number or schedule, at least 1; at 1 there is no guidance.

    Example:
        >>> MeanFlow(guidance=RandomGuidance(largest=2.5), coupling=StoredPairs())

    References:
        Re-MeanFlow (arXiv 2511.23342), Eq. 14 and table 4 (its text swaps omega and kappa);
        Xinxi-Zhang/Re-MeanFlow `train.py`.
    """

    largest: float | Schedule = 2.5

    needs_null = needs_own = True

    def __post_init__(self):
        if not bounds_of(self.largest)[0] >= 1.0:
            raise ValueError(f"largest must be at least 1. Received: {self.largest}.")

    def draw(self, keys):
        """The scale of a step, the same for all its rows on all devices."""
        whole = keys.of_first_row().uniform("guidance", (1, 1))[0, 0]
        return 1.0 + (value_at(self.largest, keys.progress) - 1.0) * whole

    def weights(self, draws):
        """omega, kappa and the null weight of each row, each (B,)."""
        w = draws.scale + 0.0 * draws.t
        omega = ops.maximum(w - 1.0, 1.0)
        kappa = 1.0 - omega / w
        return omega, kappa, 1.0 - omega - kappa
