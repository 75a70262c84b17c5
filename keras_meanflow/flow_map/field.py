"""The network as objectives and the steps of training call it."""

import contextlib

import keras

from keras_meanflow.backend import compiled_network, inside_jvp


class Field:
    """The average velocity `u(z, r, t, condition)` of a network: every call in training is here.

    `drop(condition, drop)` gives the null condition to some rows; `velocity` and `u_and_v` are
    those of a network with a second head.

    Args:
        network: the network.
        float32_derivative: compute in float32 where a derivative is taken.
    """

    def __init__(self, network, *, float32_derivative: bool = False):
        self.network, self.drop = network, network.drop_condition
        self.float32_derivative = float32_derivative
        self.jit = False
        self._compiled = self._weights = None

    def __call__(self, z, r, t, condition=None):
        """The prediction (B, ...), float32."""
        with self._scope():
            return self._call(z, r, t, condition)

    def _call(self, *arguments):
        if self.float32_derivative and inside_jvp():
            with self.network.computing_in_float32():
                return self._best()(*arguments)
        return self._best()(*arguments)

    def _best(self):
        """The network, through `torch.compile` where the step is compiled so."""
        if not self.jit or self._weights is not None:
            return self.network
        if self._compiled is None:
            self._compiled = compiled_network(self.network)
        return self._compiled

    def velocity(self, z, r, t, condition=None):
        """The prediction of the second head."""
        with self._scope():
            return self.network.velocity(z, r, t, condition)

    def u_and_v(self, z, r, t, condition=None):
        """The predictions of both heads."""
        with self._scope():
            return self.network.u_and_v(z, r, t, condition)

    @contextlib.contextmanager
    def using(self, pairs):
        """Context in which calls use other values: pairs of a weight and the variable to read."""
        self._weights = list(pairs)
        try:
            yield
        finally:
            self._weights = None

    def _scope(self):
        # A scope around a whole step would also keep what the step assigns.
        if self._weights is None:
            return contextlib.nullcontext()
        return keras.StatelessScope(self._weights)
