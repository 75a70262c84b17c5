"""A trained network as a function of NumPy arrays, and average velocities by a fine ODE solve."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import BACKEND, compiled, jvp
from keras_meanflow.flow_map import FlowMap


class LearnedField:
    """The network of a FlowMap with its chosen weights, as a function of NumPy arrays.

    Args:
        flow_map: the model; each call uses the weights of its `average`.
        batch_size: rows in a batch; the last batch is padded to this number.

    Example:
        >>> u = LearnedField(flow_map)
        >>> u(z, r, t, labels).shape == z.shape
        True
    """

    def __init__(self, flow_map: FlowMap, *, batch_size: int = 256):
        self.flow_map, self.batch_size = flow_map, batch_size
        network, jit = flow_map.network, BACKEND != "torch"
        variables = flow_map.chosen_values()[0]

        def derivative(z, r, t, v, *condition):
            tangents = (v, ops.zeros_like(r), ops.ones_like(t))
            return jvp(lambda z, r, t: network(z, r, t, *condition), (z, r, t), tangents)[1]

        self._u = compiled(lambda *arguments: network(*arguments), variables, jit)
        self._derivative = compiled(derivative, variables, jit)

    def __call__(
        self, z: np.ndarray, r: np.ndarray, t: np.ndarray, condition: Any = None
    ) -> np.ndarray:
        """The average velocity `u(z, r, t)`, float32 of the shape of `z`; r, t: (n,)."""
        return self._map(self._u, (z, r, t), condition)

    def velocity(self, z: np.ndarray, t: np.ndarray, condition: Any = None) -> np.ndarray:
        """The instantaneous velocity `u(z, t, t)`."""
        return self(z, t, t, condition)

    def derivative(
        self, z: np.ndarray, r: np.ndarray, t: np.ndarray, v: np.ndarray, condition: Any = None
    ) -> np.ndarray:
        """`du/dt = v . grad_z u + d_t u`, of the shape of `z`."""
        return self._map(self._derivative, (z, r, t, v), condition)

    def _map(self, call, arrays, condition):
        arrays = [np.asarray(array, "float32") for array in arrays]
        arrays += [] if condition is None else [condition]
        values = self.flow_map.chosen_values()[1]
        n, out = len(arrays[0]), []
        size = min(n, self.batch_size)
        for start in range(0, n, size):
            rows = np.minimum(np.arange(start, start + size), n - 1)
            part = keras.tree.map_structure(
                lambda a, rows=rows: ops.convert_to_tensor(np.asarray(a)[rows]), arrays
            )
            out.append(ops.convert_to_numpy(call(values, *part))[: n - start])
        return np.concatenate(out)


def average_velocity(
    velocity: Callable, z: np.ndarray, r: np.ndarray, t: np.ndarray, *, steps: int = 64
) -> np.ndarray:
    """`u(z, r, t) = (z_t - z_r) / (t - r)`; z_r comes from `steps` Runge-Kutta steps from t to r.

    Args:
        velocity: `v(z, t)`, from and to NumPy arrays.
        z: (n, ...) at time t.
        r, t: (n,), r < t.
        steps: steps of the classical fourth-order method, of four velocities each.

    Returns:
        float64 of the shape of `z`.

    Raises:
        ValueError: unless r < t.

    Example:
        >>> u = average_velocity(LearnedField(flow_map).velocity, z, r, t)
    """
    r, t = np.asarray(r, "float64"), np.asarray(t, "float64")
    if not (r < t).all():
        raise ValueError(f"r must lie below t. Received: t - r as small as {(t - r).min():g}.")
    start = np.asarray(z, "float64")
    z, column = start, (-1,) + (1,) * (start.ndim - 1)
    h = (r - t) / steps
    wide = h.reshape(column)
    for i in range(steps):
        now = t + i * h
        k1 = velocity(z, now)
        k2 = velocity(z + wide / 2 * k1, now + h / 2)
        k3 = velocity(z + wide / 2 * k2, now + h / 2)
        # Rounding must not bring the time below r, which may be 0.
        k4 = velocity(z + wide * k3, np.maximum(now + h, r))
        z = z + wide / 6 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    return (start - z) / (t - r).reshape(column)
