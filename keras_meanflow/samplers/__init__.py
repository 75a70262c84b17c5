"""Samplers: from noise to data with any callable `u(z, r, t)`."""

from keras_meanflow.samplers.bandit import (
    BanditSampler,
    ConstantExploration,
    Exploration,
    ScaledExploration,
)
from keras_meanflow.samplers.bandit_state import BanditState
from keras_meanflow.samplers.base import Sampler, shifted_times
from keras_meanflow.samplers.jump import Jump
from keras_meanflow.samplers.ode import AdamsBashforth2, Euler, Heun
from keras_meanflow.samplers.restart import Restart
from keras_meanflow.samplers.skipping import Extrapolation, FixedSkips, LinearExtrapolation, Reuse

__all__ = [
    "AdamsBashforth2",
    "BanditSampler",
    "BanditState",
    "ConstantExploration",
    "Euler",
    "Exploration",
    "Extrapolation",
    "FixedSkips",
    "Heun",
    "Jump",
    "LinearExtrapolation",
    "Restart",
    "Reuse",
    "Sampler",
    "ScaledExploration",
    "shifted_times",
]
