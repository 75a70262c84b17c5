"""Guidance in training: the network learns the guided velocity directly."""

import abc
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives.problem import Draws
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.parts.rows import per_row
from keras_meanflow.parts.schedules import Schedule, bounds_of, value_at


class TrainingGuidance(Configurable, abc.ABC):
    """Base of all kinds of guidance in training."""

    @property
    def guides(self) -> bool:
        """Whether the model that is trained is guided; if not, sampling may guide it."""
        return True

    def draw(self, keys: Keys, r: Tensor, t: Tensor) -> Any:
        """The random numbers of a step's guidance, arrays (B,); none by default."""
        del keys, r, t


class Interval(TrainingGuidance):
    """Guidance of rows that have a label and t in [start, end]."""

    start: float
    end: float

    def __post_init__(self):
        if not self.start <= self.end:
            raise ValueError(f"start must not exceed end. Received: {self.start}, {self.end}.")

    def active(self, draws: Draws) -> Tensor:
        """(B,) booleans: the rows that are guided."""
        within = ops.logical_and(draws.t >= self.start, draws.t <= self.end)
        return ops.logical_and(within, ops.logical_not(draws.drop))


def _null_velocity(network, drop, z, condition, draws):
    """`network(z, t, t | null)`."""
    null = drop(condition, ops.ones_like(draws.t, "bool"))
    return network(z, draws.t, draws.t, null)


class OwnGuidance(TrainingGuidance):
    """`v_g = omega v + kappa u(z, t, t | c) + (1 - omega - kappa) u(z, t, t | null)`.

    A subclass gives the weights of each row, and whether the network's own unconditional and
    conditional velocities have any weight: `needs_null`, `needs_own`.
    """

    @abc.abstractmethod
    def weights(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """omega, kappa and the null weight of each row, each (B,)."""

    def velocity(
        self, u: Callable, z: Tensor, v: Tensor, condition: Any, draws: Draws
    ) -> tuple[Tensor, Tensor | None]:
        """The guided velocity without its part kappa u(z, t, t | c), and kappa (or None)."""
        if condition is None:
            raise ValueError("Guidance needs a condition: fit(x, y) with labels y. Received: None.")
        omega, kappa, null = self.weights(draws)
        v_guided = per_row(omega, v) * v
        if self.needs_null:
            v_null = _null_velocity(u, u.drop, z, condition, draws)
            v_guided = v_guided + per_row(null, v) * v_null
        return v_guided, kappa if self.needs_own else None


@part
class Guidance(Interval, OwnGuidance):
    """`v_g = omega v + kappa u(z, t, t | c) + (1 - omega - kappa) u(z, t, t | null)`.

    The effective scale is `omega / (1 - kappa)`. Outside `[start, end]`, and on rows whose label
    is dropped, `v_g = v`.

    Args:
        omega: weight of the conditional velocity `v = e - x`, a number or a schedule.
        kappa: weight of the network's own conditional velocity, below 1, a number or a schedule.
        start, end: times between which guidance applies.

    Example:
        >>> MeanFlow(guidance=Guidance(omega=1.0, kappa=0.5))  # effective scale 2

    References:
        Mean Flows (arXiv 2505.13447), Eq. 19 and 21; Gsunshine/meanflow `guidance_fn`.
    """

    omega: float | Schedule = 1.0
    kappa: float | Schedule = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        if not all(0.0 <= kappa < 1.0 for kappa in bounds_of(self.kappa)):
            raise ValueError(f"kappa must lie in [0, 1). Received: {self.kappa}.")
        super().__post_init__()

    @property
    def guides(self) -> bool:
        """See `TrainingGuidance.guides`: not at the effective scale 1."""
        return self.needs_null

    @property
    def needs_null(self) -> bool:
        """Whether the network's own unconditional velocity has any weight."""
        moves = isinstance(self.omega, Schedule) or isinstance(self.kappa, Schedule)
        return moves or self.omega + self.kappa != 1.0

    @property
    def needs_own(self) -> bool:
        """Whether the network's own conditional velocity has any weight."""
        return bounds_of(self.kappa)[1] > 0.0

    def weights(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """See `OwnGuidance.weights`."""
        active = self.active(draws)
        omega = ops.where(active, value_at(self.omega, draws.progress), 1.0)
        kappa = ops.where(active, value_at(self.kappa, draws.progress), 0.0)
        return omega, kappa, 1.0 - omega - kappa


@part
class RandomGuidance(OwnGuidance):
    """A scale `w ~ U(1, largest)` a step: `omega = max(1, w - 1)`, `kappa = 1 - omega / w`.

    The effective scale is w. On rows whose label is dropped, the null velocity replaces the
    conditional one: `omega v + (1 - omega) u(z, t, t | null)`, as in the authors' code.

    Args:
        largest: a number or a schedule, at least 1; at 1 there is no guidance.

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

    @property
    def guides(self) -> bool:
        """See `TrainingGuidance.guides`."""
        return bounds_of(self.largest)[1] > 1.0

    def draw(self, keys: Keys, r: Tensor, t: Tensor) -> Any:
        """The scale of a step, (B,): the same number for all rows on all devices."""
        whole = keys.of_first_row().uniform("guidance", (1, 1))[0, 0]
        return 1.0 + (value_at(self.largest, keys.progress) - 1.0) * whole + 0.0 * t

    def weights(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """See `OwnGuidance.weights`."""
        w = draws.scale
        omega = ops.maximum(w - 1.0, 1.0)
        kappa = 1.0 - omega / w
        return omega, kappa, 1.0 - omega - kappa


@part
class TeacherGuidance(Interval):
    """The velocity of a teacher: `v_T = T(z, t, t | null) + scale (T(z, t, t | c) - T(.. | null))`.

    It replaces `v = e - x`, so the student learns the teacher's guidance. The teacher takes one
    forward pass at scale 1, else two. Rows whose label is dropped have `T(z, t, t | null)`. With a
    share eta below 1 the velocity is `(1 - eta) v + eta v_T`. A larger share means less variance
    from the single (x, e) of a row, and more of the teacher's bias. `MeanFlow` with share 1 is MFD,
    MeanFlow distillation; with share 0 it is plain `MeanFlow`.

    Args:
        teacher: a `Network` trained by flow matching, or another that predicts the velocity at
            r = t. `FlowMap` freezes it.
        scale: guidance scale; 1 means no guidance.
        start, end: times between which the scale applies; elsewhere it is 1.
        share: of the teacher in the velocity, in [0, 1].

    Raises:
        ValueError: for an unconditional teacher with a scale other than 1, or a share outside
            [0, 1].

    Example:
        >>> teacher = open_model("runs/digits_flow_matching").network()
        >>> SplitMeanFlow(guidance=TeacherGuidance(teacher=teacher, scale=2.0), label_dropout=0.0)

    References:
        SplitMeanFlow (arXiv 2507.16884), section 5.1; MeanFlow Transformers with Representation
        Autoencoders (arXiv 2511.13019), Prop. 3.1, for the share.
    """

    teacher: Network
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    share: float = 1.0

    def __post_init__(self):
        if not 0.0 <= self.share <= 1.0:
            raise ValueError(f"share lies in [0, 1]. Received: {self.share}.")
        if self.scale != 1.0 and not self.teacher.conditional:
            raise ValueError(f"An unconditional teacher needs scale=1. Received: {self.scale}.")
        super().__post_init__()

    @property
    def guides(self) -> bool:
        """See `TrainingGuidance.guides`."""
        return self.share > 0.0 and self.scale != 1.0

    def velocity(
        self, u: Callable, z: Tensor, v: Tensor, condition: Any, draws: Draws
    ) -> tuple[Tensor, Tensor | None]:
        """The teacher's velocity; it has no part from the network's own velocity."""
        del u
        v_teacher = self._velocity_of_teacher(z, condition, draws)
        return (1.0 - self.share) * v + self.share * v_teacher, None

    def _velocity_of_teacher(self, z, condition, draws):
        t, teacher = draws.t, self.teacher
        if not teacher.conditional:
            return teacher(z, t, t)
        v_cond = teacher(z, t, t, teacher.drop_condition(condition, draws.drop))
        if self.scale == 1.0:
            return v_cond
        v_null = _null_velocity(teacher, teacher.drop_condition, z, condition, draws)
        scale = per_row(ops.where(self.active(draws), self.scale, 1.0), z)
        return v_null + scale * (v_cond - v_null)


@part
class GuidanceInput(TrainingGuidance):
    """Laws of a guidance scale and interval that are network inputs: one model, every scale.

    `p(omega) ~ omega^-beta` on [1, largest], `t_min ~ U(0, 1/2)`, `t_max ~ U(1/2, 1)`; on rows with
    r = t the interval is [0, 1]. The network's condition is the dict of "labels", "omega", "t_min"
    and "t_max". To sample, give all of these, or build the network with `guidance={"omega": 4.0}`.

    Args:
        beta: the larger, the more scales are near 1.
        largest: the largest scale.

    Raises:
        ValueError: for a largest scale below 1.

    Example:
        >>> ImprovedMeanFlow(guidance=GuidanceInput(beta=1.0))
        >>> flow_map.generate({"labels": labels, "omega": np.full(len(labels), 4.0)})

    References:
        Improved Mean Flows (arXiv 2512.02012), section 4; Lyy-iiis/imeanflow `sample_cfg_scale`
        and `sample_cfg_interval`.
    """

    beta: float = 1.0
    largest: float = 8.0

    def __post_init__(self):
        if not self.largest >= 1.0:
            raise ValueError(f"largest must be at least 1. Received: {self.largest}.")

    def draw(self, keys: Keys, r: Tensor, t: Tensor) -> Any:
        """`omega`, `t_min` and `t_max` of each row, each (B,)."""
        uniform = keys.uniform("guidance", (ops.shape(t)[0], 3))
        below = r < t
        return {
            "omega": self.quantile(uniform[:, 0]),
            "t_min": ops.where(below, 0.5 * uniform[:, 1], 0.0),
            "t_max": ops.where(below, 0.5 + 0.5 * uniform[:, 2], 1.0),
        }

    def quantile(self, q: Tensor) -> Tensor:
        """The scale that a share q of the scales is below."""
        if self.beta == 1.0:
            return self.largest**q
        power = 1.0 - self.beta
        return (1.0 + q * (self.largest**power - 1.0)) ** (1.0 / power)

    def scale_at(self, t: Tensor, omega: Tensor, t_min: Tensor, t_max: Tensor) -> Tensor:
        """omega within the interval, 1 outside."""
        return ops.where(ops.logical_and(t >= t_min, t <= t_max), omega, 1.0)

    def add_to(
        self,
        condition: Any,
        omega: Tensor,
        t_min: Tensor | None = None,
        t_max: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The condition with the guidance added; without bounds the interval is [0, 1]."""
        if condition is None:
            raise ValueError("Guidance needs a condition: fit(x, y) with labels y. Received: None.")
        labels = condition if isinstance(condition, dict) else {"labels": condition}
        t_min = ops.zeros_like(omega) if t_min is None else t_min
        t_max = ops.ones_like(omega) if t_max is None else t_max
        return {**labels, "omega": omega, "t_min": t_min, "t_max": t_max}
