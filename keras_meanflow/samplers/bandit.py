"""FastFlow: a bandit at each step learns how many velocity calls to skip."""

import abc
import dataclasses
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.parts.part import Configurable, part
from keras_meanflow.samplers.bandit_state import BanditState
from keras_meanflow.samplers.skipping import (
    Extrapolation,
    FixedSkips,
    LinearExtrapolation,
    Skipping,
)


class Exploration(Configurable, abc.ABC):
    """The bonus of a bandit on the mean rewards Q(a) of its arms, each tried N(a) > 0 times."""

    @abc.abstractmethod
    def bonus(self, rewards: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(A,) from Q(a) and N(a), (A,) each."""


@part
class ConstantExploration(Exploration):
    """UCB1 as in the paper: `gamma sqrt(ln n / N(a))`, n = 1 + sum of N.

    With the paper's gamma = 2 the bonus is much larger than rewards of the order of 1e-2. So the
    choice stays nearly uniform for thousands of walks.

    References:
        FastFlow (arXiv 2602.11105); Auer et al., 2002, for UCB1.
    """

    gamma: float = 2.0

    def bonus(self, rewards: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """See `Exploration.bonus`."""
        return self.gamma * np.sqrt(np.log(1 + counts.sum()) / counts)


@part
class ScaledExploration(Exploration):
    """UCB1 in units of the rewards: `gamma (max Q - min Q) sqrt(ln n / N(a))`, n = 1 + sum of N.

    UCB1 assumes rewards in [0, 1]. The range of Q at each step scales its rewards to that.
    """

    gamma: float = 0.1

    def bonus(self, rewards: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """See `Exploration.bonus`."""
        return self.gamma * np.ptp(rewards) * np.sqrt(np.log(1 + counts.sum()) / counts)


@part
class BanditSampler(Skipping):
    """FastFlow: Euler's method that skips many calls of u. A bandit at each step learns how many.

    Each step k > 0 that calls u asks the UCB bandit of this step for a number of steps to skip,

        a_k = argmax over a of Q_k(a) + bonus,    Q_k(a) = mean of  skip_weight a - mean (v - v^)^2

    It takes these steps with the extrapolated v^ and calls u again. Bandit k is credited with the
    error found there, and the step of that call decides next. Arms not tried yet come first, the
    shortest first, so the first walk calls u at every step. The first two steps and the last one
    are never skipped.

    A bandit decides at most once in a walk, from the results of earlier walks. So the steps of a
    walk are fixed before it starts, and the device is read once, at its end. A walk is a batch: all
    rows take the same steps. While the sampler learns, samples depend on the walks before; `freeze`
    it to avoid this. Only `step`, the network call and the update, is compiled.

    Args:
        steps: number of equal steps.
        times: the grid of times, falling from 1 to 0, instead of equal steps.
        arms: numbers of steps to skip, rising from 0.
        extrapolation: the estimate of the velocity of a skipped step.
        exploration: the bonus of rarely tried arms; in the paper `ConstantExploration()`.
        skip_weight: the reward of one skipped call, in units of the squared error. By default the
            largest mean error of any step and arm so far, over the number of steps.
        state: a `BanditState` to continue from; by default a new one, `sampler.state`.

    Raises:
        ValueError: for arms that do not rise from 0 or exceed steps - 3 (the first two and the last
            step call u), a negative weight, or a state of other times, arms or extrapolation.
            In a walk, for a velocity that is not finite: nothing is learned from that walk.

    Example:
        >>> sampler = BanditSampler(steps=50)
        >>> for seed in range(50):
        ...     x = flow_map.generate(labels, sampler=sampler, seed=seed)
        >>> sampler.calls  # of the last walk; sampler.state.calls has them all
        17
        >>> sampler.state.save("bandits.json")
        >>> x = flow_map.generate(labels, sampler=sampler.freeze())

    References:
        FastFlow: Accelerating the Generative Flow Matching Models with Bandit Inference (arXiv
        2602.11105). The released code differs: it credits the bandit of the step where the error is
        found, makes no decision there, damps the extrapolation to 0.005 of the difference, and
        has constant weights; see docs/guide/fastflow.md.
    """

    steps: int = 50
    times: tuple | None = None
    arms: tuple = (0, 2, 4, 6)
    extrapolation: Extrapolation = LinearExtrapolation()
    exploration: Exploration = ScaledExploration()
    skip_weight: float | None = None
    state: BanditState | None = dataclasses.field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_arms()
        if self.skip_weight is not None and not 0.0 <= self.skip_weight < np.inf:
            raise ValueError(f"skip_weight must be finite, >= 0. Received: {self.skip_weight}.")
        settings = self.grid, self.arms, type(self.extrapolation).__name__
        if self.state is None:
            object.__setattr__(self, "state", BanditState(*settings))
        self.state.check(*settings)

    def _check_arms(self):
        object.__setattr__(self, "arms", tuple(self.arms))
        whole = all(isinstance(arm, int) and not isinstance(arm, bool) for arm in self.arms)
        if not whole or self.arms[:1] != (0,) or list(self.arms) != sorted(set(self.arms)):
            raise ValueError(f"arms must be integers that rise from 0. Received: {self.arms}.")
        longest, steps = self.arms[-1], len(self.grid) - 1
        if longest > max(steps - 3, 0):
            raise ValueError(
                f"arms must be at most steps - 3: of {steps} steps the first two and the last are "
                f"not skipped. Received: arms={self.arms}. Use more steps, or shorter arms."
            )

    @property
    def calls(self) -> int | None:
        """Velocity calls of the last walk; None before the first."""
        return self.state.calls[-1] if self.state.calls else None

    @property
    def weight(self) -> float:
        """`skip_weight`, or its estimate so far."""
        if self.skip_weight is not None:
            return self.skip_weight
        return self.state.errors.max() / self.state.steps

    def walk(self, step: Callable, z: Tensor) -> Tensor:
        """See `Sampler.walk`."""
        evaluated = self._schedule(self.choose)
        z, errors = self.follow(step, z, evaluated)
        self._learn(evaluated, ops.convert_to_numpy(ops.stack(errors)))
        return z

    def freeze(self) -> FixedSkips:
        """A `FixedSkips` that takes at each step the arm with the highest mean reward so far.

        Raises:
            ValueError: before the first walk.
        """
        if not self.state.calls:
            raise ValueError("The bandits have seen no walk yet. Generate first, then freeze.")
        return FixedSkips(
            evaluated=self._schedule(self._exploit),
            steps=self.steps,
            times=self.times,
            extrapolation=self.extrapolation,
        )

    def _schedule(self, choose):
        """The steps that call u when `choose(k)` decides at step k."""
        evaluated = [0]
        while (k := evaluated[-1]) < self.state.steps - 1:
            evaluated.append(k + 1 + (choose(k) if k else 0))
        return tuple(evaluated)

    def choose(self, step: int) -> int:
        """The arm that the bandit of a step takes next; an arm never skips the last step.

        It is the shortest arm not tried yet, or else the one with the highest upper confidence
        bound.
        """
        arms, counts, rewards = self._bandit(step)
        if not counts.all():
            return int(arms[np.argmin(counts > 0)])
        return _best(arms, rewards + self.exploration.bonus(rewards, counts))

    def _exploit(self, step):
        """The tried arm with the highest mean reward; 0 if none was tried."""
        arms, counts, rewards = self._bandit(step)
        tried = counts > 0
        return _best(arms[tried], rewards[tried]) if tried.any() else 0

    def _bandit(self, step):
        """Arms, counts and mean rewards of the bandit of a step."""
        arms = np.array([arm for arm in self.arms if step + 1 + arm < self.state.steps])
        counts, errors = (a[step, : len(arms)] for a in (self.state.counts, self.state.errors))
        return arms, counts, self.weight * arms - errors

    def _learn(self, evaluated, errors):
        """Credit each decision with the error of the next call."""
        if not np.isfinite(errors).all():
            first = int(np.argmin(np.isfinite(errors)))
            raise ValueError(
                f"The velocity must be finite. Its squared error is {errors[first]} at t = "
                f"{self.grid[evaluated[first]]:.3f}; nothing was learned of this walk."
            )
        calls = zip(evaluated[1:], evaluated[2:], errors[2:], strict=False)
        for step, following, error in calls:
            self.state.credit(step, following - step - 1, float(error))
        self.state.calls.append(len(evaluated))


def _best(arms, scores):
    """The arm with the highest score; the longest of equal ones."""
    return int(arms[::-1][np.argmax(scores[::-1])])
