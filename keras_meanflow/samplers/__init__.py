"""From noise to data with any callable `u(z, r, t)`."""

from keras_meanflow.samplers.base import Sampler
from keras_meanflow.samplers.jump import Jump
from keras_meanflow.samplers.ode import Euler, Heun

__all__ = ["Euler", "Heun", "Jump", "Sampler"]
