"""Values that change with training progress p in [0, 1], exact on every compiled step."""

from keras import ops

from keras_meanflow.configurable import Configurable, part


class Schedule(Configurable):
    """A value as a function of progress: subclasses write `__call__(progress)`."""

    def __call__(self, progress):
        """The value at `progress`, a float32 scalar in [0, 1]."""
        raise NotImplementedError


@part
class Line(Schedule):
    """From `start` at p = 0 to `end` at p = 1 in a straight line.

    Example:
        >>> LogitNormal(mean=Line(start=-2.0, end=-0.4))
    """

    start: float
    end: float

    def __call__(self, progress):
        """`start + (end - start) p`."""
        return self.start + (self.end - self.start) * ops.cast(progress, "float32")


def value_at(value, progress):
    """A number as it is, a schedule at `progress`."""
    return value(progress) if isinstance(value, Schedule) else value


def is_scheduled(part):
    """Whether any field of a part, or of the parts in it, is a schedule."""
    if isinstance(part, Schedule):
        return True
    fields = getattr(part, "__dataclass_fields__", {})
    return any(is_scheduled(getattr(part, name)) for name in fields)
