"""The statistics of the bandits of a `BanditSampler`, separate from the rule that chooses."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np

from keras_meanflow.files.reading import read_json
from keras_meanflow.parts.part import register


@register
class BanditState:
    """How often each bandit took each arm, and the mean squared error that followed.

    The rewards `skip_weight * arm - error` are not stored, because `skip_weight` may change.

    Args:
        times: the grid, (T + 1,), from 1 to 0.
        arms: skip lengths, (A,).
        extrapolation: name of the class of the extrapolation.
        counts: (T, A), with row k for the bandit at step k; zeros by default.
        errors: (T, A), means of `mean (v - v^)^2`; zeros by default.
        calls: velocity calls of each walk so far.

    Example:
        >>> state = BanditState.load("bandits.json")
        >>> state.calls[-1]
        17
    """

    def __init__(
        self,
        times: Iterable[float],
        arms: Iterable[int],
        extrapolation: str,
        *,
        counts: np.ndarray | list | None = None,
        errors: np.ndarray | list | None = None,
        calls: Iterable[int] = (),
    ) -> None:
        self.times = tuple(float(t) for t in times)
        self.arms, self.extrapolation = tuple(arms), extrapolation
        shape = (len(self.times) - 1, len(self.arms))
        self.counts = np.zeros(shape, "int64") if counts is None else np.array(counts, "int64")
        self.errors = np.zeros(shape) if errors is None else np.array(errors, "float64")
        self.calls = list(calls)
        for name in ("counts", "errors"):
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(f"{name} must be (steps, arms), {shape}. Received: {found}.")

    @property
    def steps(self) -> int:
        """T, the number of steps of the grid."""
        return len(self.times) - 1

    def credit(self, step: int, arm: int, error: float) -> None:
        """Add to the bandit of a step one use of an arm, and the error that followed."""
        at = step, self.arms.index(arm)
        self.counts[at] += 1
        self.errors[at] += (error - self.errors[at]) / self.counts[at]

    def check(self, times: Iterable[float], arms: Iterable[int], extrapolation: str) -> None:
        """Raise a ValueError unless this state belongs to a sampler with these settings."""
        if self.steps != len(times) - 1:
            raise ValueError(
                "Bandits learn for one number of steps. The state was saved for steps="
                f"{self.steps}. Received: steps={len(times) - 1}. Start a new state for these."
            )
        pairs = {
            "times": (self.times, tuple(float(t) for t in times)),
            "arms": (self.arms, tuple(arms)),
            "extrapolation": (self.extrapolation, extrapolation),
        }
        for name, (saved, now) in pairs.items():
            if saved != now:
                raise ValueError(
                    f"The state was saved for other {name}: {saved}. Received: {now}. "
                    "Start a new state for these."
                )

    def get_config(self) -> dict:
        """The arguments as JSON values."""
        return {
            "times": list(self.times),
            "arms": list(self.arms),
            "extrapolation": self.extrapolation,
            "counts": self.counts.tolist(),
            "errors": self.errors.tolist(),
            "calls": list(self.calls),
        }

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """The state with these arguments."""
        return cls(**config)

    def save(self, path: str | Path) -> None:
        """Write the state as JSON."""
        Path(path).write_text(json.dumps(self.get_config()) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The state that `save` wrote.

        Raises:
            ValueError: for a file that holds no such state.
        """
        try:
            return cls.from_config(read_json(path))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} must hold a saved BanditState. Received: {error}") from error
