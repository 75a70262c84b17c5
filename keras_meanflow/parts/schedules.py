"""Values that change with training progress p in [0, 1], exact on every compiled step."""

import abc
import itertools
import math
from typing import Any

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable, part


class Schedule(Configurable, abc.ABC):
    """A value as a function of progress: subclasses write `__call__(progress)` and `bounds`."""

    @abc.abstractmethod
    def __call__(self, progress: Tensor | float) -> Tensor:
        """The value at `progress`, a float32 scalar in [0, 1]."""

    @property
    @abc.abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest value over all of training, two numbers."""

    def may_go_back(self, before: float, after: float) -> bool:
        """Whether a run may be lengthened so that progress goes back from `before` to `after`."""
        return True


class Ramp(Schedule):
    """From `start` to `end` between the progress `begin` and `until`; constant before and after.

    A subclass writes `shape(q)`, which rises from about 0 to about 1 as q goes from 0 to 1.
    """

    start: float
    end: float
    begin: float
    until: float

    def __post_init__(self):
        if not 0.0 <= self.begin < self.until <= 1.0:
            raise ValueError(
                "A schedule begins before it ends, both at a progress in [0, 1]. "
                f"Received: begin={self.begin}, until={self.until}."
            )

    @abc.abstractmethod
    def shape(self, q: Tensor) -> Tensor:
        """The share of the way from `start` to `end` at q in [0, 1]."""

    def __call__(self, progress: Tensor | float) -> Tensor:
        """`start + (end - start) shape(q)`, `q = clip((p - begin) / (until - begin), 0, 1)`."""
        p = ops.cast(progress, "float32")
        q = ops.clip((p - self.begin) / (self.until - self.begin), 0.0, 1.0)
        return self.start + (self.end - self.start) * self.shape(q)

    @property
    def bounds(self) -> tuple[float, float]:
        """See `Schedule.bounds`."""
        return min(self.start, self.end), max(self.start, self.end)


@part
class Line(Ramp):
    """A straight line from `start` to `end`.

    Example:
        >>> LogitNormal(mean=Line(start=-2.0, end=-0.4))
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def shape(self, q: Tensor) -> Tensor:
        """`q`."""
        return q


@part
class Power(Ramp):
    """`start + (end - start) q^exponent`: slow at first for an exponent above 1, fast below 1.

    Example:
        >>> s = Power(start=1.0, end=0.0, exponent=2.0)  # s = 1 - p^2

    Raises:
        ValueError: for an exponent that is not positive.
    """

    start: float
    end: float
    exponent: float = 1.0
    begin: float = 0.0
    until: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not self.exponent > 0.0:
            raise ValueError(f"exponent must exceed 0. Received: {self.exponent}.")

    def shape(self, q: Tensor) -> Tensor:
        """`q^exponent`."""
        return q**self.exponent


@part
class Cosine(Ramp):
    """Half a cosine wave, flat at both ends: `(1 - cos(pi q)) / 2`."""

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0

    def shape(self, q: Tensor) -> Tensor:
        """`(1 - cos(pi q)) / 2`."""
        return 0.5 * (1.0 - ops.cos(math.pi * q))


@part
class Sigmoid(Ramp):
    """`sigmoid(steepness (q - middle))`: it comes near `start` and `end` but does not reach them.

    Args:
        start, end: the values far before and far after the middle.
        steepness: the larger, the sharper; 25 in AlphaFlow.
        begin, until: q goes from 0 to 1 between them.
        middle: where the curve turns, a share of the way from `begin` to `until`.

    References:
        AlphaFlow (arXiv 2510.20771): alpha falls along a sigmoid of training progress.
    """

    start: float
    end: float
    steepness: float = 10.0
    begin: float = 0.0
    until: float = 1.0
    middle: float = 0.5

    def shape(self, q: Tensor) -> Tensor:
        """`sigmoid(steepness (q - middle))`."""
        return ops.sigmoid(self.steepness * (q - self.middle))


@part
class Steps(Schedule):
    """`values[0]` at first, and `values[i]` from progress `at[i - 1]` on.

    Args:
        values: n + 1 numbers.
        at: n rising numbers in [0, 1]; from 0 on the first value is never used.

    Example:
        >>> Steps(values=(1.0, 0.75), at=(0.3,))  # all rows r = t for the first 30 %
    """

    values: tuple
    at: tuple

    def __post_init__(self):
        _check_rising("at", self.at)
        if len(self.values) != len(self.at) + 1:
            raise ValueError(
                "Steps needs one value more than turning points. "
                f"Received: values={self.values}, at={self.at}."
            )

    def __call__(self, progress: Tensor | float) -> Tensor:
        """The value of the step that `progress` is on."""
        p = ops.cast(progress, "float32")
        value = ops.cast(self.values[0], "float32")
        for turn, following in zip(self.at, self.values[1:], strict=True):
            value = ops.where(p >= turn, following, value)
        return value

    def may_go_back(self, before: float, after: float) -> bool:
        """Not over a turning point: what was switched would be switched back."""
        return not any(after < turn <= before for turn in self.at)

    @property
    def bounds(self) -> tuple[float, float]:
        """See `Schedule.bounds`."""
        return min(self.values), max(self.values)


@part
class Piecewise(Schedule):
    """Straight lines between `values[i]` at progress `at[i]`; constant before and after them.

    Example:
        >>> Piecewise(at=(0.0, 0.5, 1.0), values=(-2.0, -0.4, -0.4))
    """

    values: tuple
    at: tuple

    def __post_init__(self):
        _check_rising("at", self.at)
        if len(self.values) != len(self.at):
            raise ValueError(
                "Piecewise needs a value for each point. "
                f"Received: values={self.values}, at={self.at}."
            )

    def __call__(self, progress: Tensor | float) -> Tensor:
        """The value on the line that `progress` is on."""
        p = ops.cast(progress, "float32")
        value = ops.cast(self.values[0], "float32")
        for (a, b), (start, end) in zip(
            itertools.pairwise(self.at), itertools.pairwise(self.values), strict=True
        ):
            value = value + (end - start) * ops.clip((p - a) / (b - a), 0.0, 1.0)
        return value

    @property
    def bounds(self) -> tuple[float, float]:
        """See `Schedule.bounds`."""
        return min(self.values), max(self.values)


def _check_rising(name, numbers):
    inside = all(0.0 <= number <= 1.0 for number in numbers)
    if not inside or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"`{name}` holds rising numbers in [0, 1]. Received: {tuple(numbers)}.")


def value_at(value: float | Schedule, progress: Tensor | float) -> Tensor | float:
    """A number unchanged, or a schedule's value at `progress`."""
    return value(progress) if isinstance(value, Schedule) else value


def bounds_of(value: float | Schedule) -> tuple[float, float]:
    """The least and the greatest value that a number or a schedule takes."""
    return value.bounds if isinstance(value, Schedule) else (value, value)


def scheduled_values(part: Any, prefix: str = "") -> dict[str, Schedule]:
    """`{path: schedule}` of the schedules in a part and in the parts within it."""
    found = {}
    for name in getattr(part, "__dataclass_fields__", {}):
        value = getattr(part, name)
        if isinstance(value, Schedule):
            found[prefix + name] = value
        else:
            found |= scheduled_values(value, f"{prefix}{name}.")
    return found
