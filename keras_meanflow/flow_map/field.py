"""The network as objectives and the steps of training call it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from keras_meanflow.backend import Tensor, compiled_network, inside_jvp
from keras_meanflow.networks.base import Network


class Field:
    """The average velocity `u(z, r, t, condition)` of a network, for every call in training.

    `drop(condition, drop)` gives the null condition to some rows. `velocity` and `u_and_v` are for
    networks with a second head.

    Args:
        network: the network.
        float32_derivative: compute in float32 where a derivative is taken.
    """

    def __init__(self, network: Network, *, float32_derivative: bool = False):
        self.network, self.drop = network, network.drop_condition
        self.float32_derivative = float32_derivative
        self.jit = False
        self._compiled = self._weights = None

    def __call__(self, z: Tensor, r: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """The prediction (B, ...), float32."""
        with self._scope():
            return self._call(z, r, t, condition)

    def _call(self, *arguments):
        if self.float32_derivative and inside_jvp():
            with self.network.computing_in_float32():
                return self._best()(*arguments)
        return self._best()(*arguments)

    def _best(self):
        """The network, compiled by `torch.compile` if the step is."""
        if not self.jit or self._weights is not None:
            return self.network
        if self._compiled is None:
            self._compiled = compiled_network(self.network)
        return self._compiled

    def velocity(self, z: Tensor, r: Tensor, t: Tensor, condition: Any = None) -> Tensor:
        """The prediction of the second head."""
        with self._scope():
            return self.network.velocity(z, r, t, condition)

    def u_and_v(
        self, z: Tensor, r: Tensor, t: Tensor, condition: Any = None
    ) -> tuple[Tensor, Tensor]:
        """The predictions of both heads."""
        with self._scope():
            return self.network.u_and_v(z, r, t, condition)

    @contextlib.contextmanager
    def using(self, pairs: Iterable[tuple[keras.Variable, keras.Variable]]) -> Iterator[None]:
        """Context in which calls read other values: pairs of a weight and a variable."""
        self._weights = list(pairs)
        try:
            yield
        finally:
            self._weights = None

    def _scope(self):
        # A scope around a whole step would also capture what the step assigns.
        if self._weights is None:
            return contextlib.nullcontext()
        return keras.StatelessScope(self._weights)


class Prediction(keras.layers.Layer):
    """A function of the inputs as a layer, so that the layers in it learn of `training`.

    Keras hands `training` down from the call of a layer. On JAX its train step runs `Model.call`
    itself, and no layer below would learn of it.
    """

    def __init__(self, predict: Callable):
        super().__init__(autocast=False)
        self._predict = predict
        self.built = True

    def call(self, inputs: dict, training: bool = False) -> Any:
        """What the function gives."""
        del training
        return self._predict(inputs)
