"""Adam with a momentum in fewer bits."""

from typing import Any

import keras
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.optimizers.dense import DenseGradients
from keras_meanflow.parts.part import register

_LARGEST_DECAY = 0.99  # 1 - beta_1 is then five times bfloat16's half unit


@register
class Adam(DenseGradients, keras.optimizers.Adam):
    """Keras' Adam with the momentum in bfloat16: 6 bytes of state per weight instead of 8.

    The step is computed in float32, and the momentum is rounded once, when it is stored. The second
    moment stays in float32. With beta_2 = 0.999 it moves by a thousandth of the difference, which
    is less than bfloat16's half unit of 2^-9: in bfloat16 it would never change.

    Args:
        learning_rate: a float, a schedule or a callable.
        momentum_dtype: "bfloat16", or "float32".
        **kwargs: as in `keras.optimizers.Adam`, except `amsgrad`.

    Raises:
        ValueError: for `amsgrad`, another dtype, or a beta_1 so near to 1 that a momentum in
            bfloat16 would never change either.

    Example:
        >>> flow_map.compile(Adam(1e-4))

    References:
        optax `adam(mu_dtype=)`.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        *,
        momentum_dtype: str = "bfloat16",
        name: str = "adam",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, name=name, **kwargs)
        if self.amsgrad:
            raise ValueError("Adam has no amsgrad here: use keras.optimizers.Adam.")
        if momentum_dtype not in ("bfloat16", "float32"):
            raise ValueError(f"momentum_dtype is bfloat16 or float32. Received: {momentum_dtype}.")
        if momentum_dtype == "bfloat16" and self.beta_1 > _LARGEST_DECAY:
            raise ValueError(
                f"A momentum in bfloat16 moves with beta_1 up to {_LARGEST_DECAY}. "
                f"Received: {self.beta_1}."
            )
        self.momentum_dtype = momentum_dtype

    def add_variable_from_reference(
        self,
        reference_variable: keras.Variable,
        name: str | None = None,
        initializer: Any = "zeros",
    ) -> keras.Variable:
        """As in Keras, except the dtype of both moments."""
        if name not in ("momentum", "velocity"):
            return super().add_variable_from_reference(reference_variable, name, initializer)
        return self.add_variable(
            shape=reference_variable.shape,
            initializer=initializer,
            dtype=self.momentum_dtype if name == "momentum" else "float32",
            name=f"{reference_variable.path.replace('/', '_')}_{name}",
            layout=getattr(reference_variable, "_layout", None),
        )

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        """Step one variable: Kingma and Ba (arXiv 1412.6980), section 2, the efficient form."""
        i = self._get_variable_index(variable)
        momentum, velocity = self._momentums[i], self._velocities[i]
        given = (gradient, learning_rate, self.iterations + 1, momentum)
        g, rate, step, m = (ops.cast(x, "float32") for x in given)
        m = m + (1.0 - self.beta_1) * (g - m)
        v = velocity + (1.0 - self.beta_2) * (ops.square(g) - velocity)
        rate = rate * ops.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        self.assign(momentum, ops.cast(m, self.momentum_dtype))
        self.assign(velocity, v)
        step = rate * m / (ops.sqrt(v) + self.epsilon)
        self.assign_sub(variable, ops.cast(step, variable.dtype))

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "momentum_dtype": self.momentum_dtype}
