"""Checks of arguments: numbers in their range, sizes that are whole and positive."""

import math
from collections.abc import Sequence
from typing import Any

_WORDS = {"(0, inf)": "exceed 0 and be finite", "[0, inf)": "be at least 0 and finite"}


def check_within(interval: str, **values: Any) -> None:
    """Raise a ValueError unless the values, by name, lie in an interval such as "(0, 1]".

    A value is a number, a schedule (its bounds count), a sequence of numbers, or None, which
    passes. NaN lies in no interval.

    Example:
        >>> check_within("[0, 1)", dropout=1.0)
        ValueError: dropout must lie in [0, 1). Received: 1.0.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    for name, value in values.items():
        for number in _numbers(value):
            above = low < number or (interval[0] == "[" and number == low)
            below = number < high or (interval[-1] == "]" and number == high)
            if not (above and below):
                rule = _WORDS.get(interval, f"lie in {interval}")
                raise ValueError(f"{name} must {rule}. Received: {value}.")


def check_sizes(**values: Any) -> None:
    """Raise a ValueError unless the values, by name, are whole numbers of at least 1, or None.

    Example:
        >>> check_sizes(depth=0)
        ValueError: depth must be a whole number of at least 1. Received: 0.
    """
    for name, value in values.items():
        if any(number < 1 or number % 1 for number in _numbers(value)):
            raise ValueError(f"{name} must be a whole number of at least 1. Received: {value}.")


def check_finite(**values: Any) -> None:
    """Raise a ValueError for a number among the values, by name, that is NaN or infinite."""
    for name, value in values.items():
        if not all(math.isfinite(number) for number in _numbers(value)):
            raise ValueError(f"{name} must be finite. Received: {value}.")


def _numbers(value):
    """The numbers of an argument; none for another kind of argument."""
    if isinstance(value, bool) or value is None:
        return ()
    if isinstance(value, int | float):
        return (value,)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number for part in value for number in _numbers(part)]
    return _numbers(getattr(value, "bounds", None))
