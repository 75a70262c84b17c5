"""Adam with its momentum in fewer bits."""

import keras
from keras import ops

from keras_meanflow.configurable import register


@register
class Adam(keras.optimizers.Adam):
    """Keras' Adam with the momentum in bfloat16: 6 bytes of state a weight for 8.

    The step is computed in the weights' dtype, and rounded once where it is stored. The other
    moment stays in the weights' dtype: with beta_2 = 0.999 it moves by a thousandth of itself, less
    than bfloat16's half unit of 2^-9, and would stand still.

    Args:
        learning_rate: a float, a schedule or a callable.
        momentum_dtype: "bfloat16", or another dtype of floats.
        **kwargs: as in `keras.optimizers.Adam`, but for `amsgrad`.

    Raises:
        ValueError: for `amsgrad`, or a dtype that is not of floats.

    Example:
        >>> flow_map.compile(Adam(1e-4))

    References:
        optax `adam(mu_dtype=)`.
    """

    def __init__(self, learning_rate=0.001, *, momentum_dtype="bfloat16", name="adam", **kwargs):
        super().__init__(learning_rate, name=name, **kwargs)
        if self.amsgrad:
            raise ValueError("Adam has no amsgrad here: use keras.optimizers.Adam.")
        if not keras.backend.is_float_dtype(momentum_dtype):
            raise ValueError(f"momentum_dtype is of floats. Received: {momentum_dtype}.")
        self.momentum_dtype = momentum_dtype

    def add_variable_from_reference(self, reference_variable, name=None, initializer="zeros"):
        """As Keras' own, but for the dtype of the momentum."""
        if name != "momentum":
            return super().add_variable_from_reference(reference_variable, name, initializer)
        return self.add_variable(
            shape=reference_variable.shape,
            initializer=initializer,
            dtype=self.momentum_dtype,
            name=f"{reference_variable.path.replace('/', '_')}_{name}",
            layout=getattr(reference_variable, "_layout", None),
        )

    def update_step(self, gradient, variable, learning_rate):
        """Step one variable: Kingma and Ba (arXiv 1412.6980), section 2, the efficient form."""
        i, dtype = self._get_variable_index(variable), variable.dtype
        momentum, velocity = self._momentums[i], self._velocities[i]
        g, rate, step = (ops.cast(x, dtype) for x in (gradient, learning_rate, self.iterations + 1))
        m = ops.cast(momentum, dtype)
        m = m + (1.0 - self.beta_1) * (g - m)
        v = velocity + (1.0 - self.beta_2) * (ops.square(g) - velocity)
        rate = rate * ops.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        self.assign(momentum, ops.cast(m, self.momentum_dtype))
        self.assign(velocity, v)
        self.assign_sub(variable, rate * m / (ops.sqrt(v) + self.epsilon))

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "momentum_dtype": self.momentum_dtype}
