"""The interface between FlowMap and a network."""

import abc
import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.parts.ranges import check_sizes
from keras_meanflow.parts.rows import per_row

Condition = Tensor | dict[str, Tensor] | None


class Network(keras.Model, abc.ABC):
    """A network `u(z, r, t, condition)`; a subclass writes `call` and builds its layers.

    Keras does not cast the inputs to the compute dtype. Times stay float32 up to the time
    embedding, because bfloat16 has no 0.9987. The subclass casts z. Outputs are float32.

    Training takes forward-mode derivatives of the network, so attention must go through
    `layers.attend`. With bfloat16 on a GPU, Keras' attention layers use a fused kernel, which on
    JAX has no forward mode. Build them after `keras.config.disable_flash_attention()`.

    Layers that act differently in training, such as Dropout and BatchNormalization, do so in the
    pass whose gradient is taken. In targets, so in the velocity and in du/dt, they act as in
    sampling: du/dt is that of the network without dropout, and no mask is shared between u and
    du/dt. Only the prediction as its own target (`Problem.self_share`) has the mask of that pass.
    Such a network is always trained in two passes. Moving averages are updated once a step, and
    every average of the weights shares them. Keras' Dropout draws from its own seed generator.

    Layers may wait for their first call: `FlowMap` builds them by a symbolic call. The condition
    of this call is what `condition_inputs` gives.

    The condition is labels or an array, or a dict of them by name. It is always a dict where the
    shapes have names. A subclass whose `call` reads it through `by_name` sets `reads_by_name`:
    then a single required part may also come alone, without its name.

    Args:
        data_shape: shape of one sample without the batch axis.
        num_classes: number of classes, or None for a network without labels. Label `num_classes`
            is the null label. In a dict the labels are named `labels`.
        condition_shape: shape of the array of floats that conditions one sample, or a dict of such
            shapes by name, or None. Zeros are the null condition.
        optional_shape: shapes, by name, of arrays that a condition may leave out, or None. They
            have no null value: they stay when the condition of a row is dropped.

    Raises:
        ValueError: for both labels and an array without a name.
    """

    reads_by_name = False

    def __init__(
        self,
        *,
        data_shape: tuple[int, ...],
        num_classes: int | None = None,
        condition_shape: tuple[int, ...] | dict[str, tuple[int, ...]] | None = None,
        optional_shape: dict[str, tuple[int, ...]] | None = None,
        **kwargs: Any,
    ) -> None:
        check_sizes(num_classes=num_classes)
        super().__init__(autocast=False, **kwargs)
        self.data_shape = tuple(data_shape)
        self.num_classes = num_classes
        self._named = isinstance(condition_shape, dict)
        if num_classes is not None and condition_shape is not None and not self._named:
            raise ValueError(
                "With labels, the shapes of arrays have names, as in {'noisy': (8, 8, 1)}. "
                f"Received: condition_shape={condition_shape}."
            )
        shapes = condition_shape if self._named else {"": condition_shape}
        self._shapes = {k: tuple(shape) for k, shape in shapes.items() if shape is not None}
        self._optional = {k: tuple(shape) for k, shape in (optional_shape or {}).items()}
        self._required = (*(() if num_classes is None else ("labels",)), *self._shapes)
        self._takes_dict = self._named or bool(self._optional)

    @abc.abstractmethod
    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity between r and t at z: `z` (B, ...), `r, t` (B,)."""

    @property
    def condition_shape(self) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
        """See `Network`."""
        return dict(self._shapes) if self._named else self._shapes.get("")

    @property
    def optional_shape(self) -> dict[str, tuple[int, ...]]:
        """See `Network`."""
        return dict(self._optional)

    @property
    def _takes_array(self):
        """Whether a condition may come alone, without its name."""
        return len(self._required) == 1 and (self.reads_by_name or not self._takes_dict)

    @property
    def conditional(self) -> bool:
        """Whether the network needs a condition."""
        return bool(self._required)

    @property
    def differs_in_training(self) -> bool:
        """Whether a layer may act differently in training, as dropout does."""
        return any(map(_differs_in_training, self._flatten_layers()))

    def ensure_built(self) -> None:
        """Build the layers that wait for their first call, by a call on symbolic inputs.

        Raises:
            ValueError: if layers are not built after it.
        """
        if all(layer.built for layer in self._flatten_layers()):
            return
        z, r, t = (keras.Input(shape) for shape in (self.data_shape, (), ()))
        self(z, r, t, self.condition_inputs())
        waiting = [layer.name for layer in self._flatten_layers() if not layer.built]
        if waiting:
            raise ValueError(
                f"A network builds all its layers in its constructor or its first call. "
                f"{type(self).__name__} leaves out: {', '.join(waiting)}."
            )

    @contextlib.contextmanager
    def computing_in_float32(self) -> Iterator[None]:
        """Context in which the layers compute in float32; the weights do not change."""
        policies = [(layer, layer.dtype_policy) for layer in self._flatten_layers()]
        lower = [(layer, policy) for layer, policy in policies if policy.compute_dtype != "float32"]
        try:
            for layer, _ in lower:
                layer.dtype_policy = "float32"
            yield
        finally:
            for layer, policy in lower:
                layer.dtype_policy = policy

    def by_name(self, condition: Condition) -> dict[str, Tensor]:
        """The condition as a dict: labels or an array alone under its name, {} for None.

        Raises:
            ValueError: for a condition that this network does not take.
        """
        if self._takes_dict and isinstance(condition, dict):
            return condition
        if condition is None and not self._required:
            return {}
        if not self._takes_array:
            raise self._refusal(condition)
        return {self._required[0]: condition}

    def drop_condition(self, condition: Condition, drop: Tensor) -> Condition:
        """The condition with null labels and arrays on the rows where `drop` (B,) is True."""

        def dropped(array):
            labels = keras.backend.is_int_dtype(keras.backend.standardize_dtype(array.dtype))
            array = ops.cast(array, "int32") if labels else array  # 256 is 0 in uint8
            null = ops.cast(self.num_classes if labels else 0, array.dtype)
            return ops.where(per_row(drop, array), null, array)

        if not (self._takes_dict and isinstance(condition, dict)):
            return keras.tree.map_structure(dropped, condition)
        return {k: dropped(a) if k in self._required else a for k, a in condition.items()}

    def training_condition(self, condition: Condition, keys: Keys, rows: Tensor) -> Condition:
        """The condition with the random keys that the network needs in training, for dropout."""
        del keys, rows
        return condition

    def check_condition(self, condition: Condition, *, values: bool = True) -> None:
        """Raise a ValueError for a condition that this network does not take.

        Args:
            condition: arrays or tensors.
            values: check the values too. Without them the tensors may be symbolic, inside a step.
        """
        parts = self.by_name(condition)
        if not {*self._required} <= {*parts} <= {*self._required, *self._optional}:
            raise self._refusal(condition)
        for name, part in parts.items():
            self._check_type(name, part)
            if values:
                self._check_values(name, part)

    def _refusal(self, condition):
        names = [*self._required, *(f"{name} (optional)" for name in self._optional)]
        if not names:
            return ValueError("This network is unconditional: it takes no condition.")
        received = sorted(condition) if isinstance(condition, dict) else type(condition)
        return ValueError(f"The condition is a dict of {', '.join(names)}. Received: {received}.")

    def _check_type(self, name, part):
        if name == "labels" and self.num_classes is not None:
            _check_label_type(part, self.num_classes)
        else:
            _check_array_type(
                name or "The condition", part, {**self._shapes, **self._optional}[name]
            )

    def _check_values(self, name, part):
        if name == "labels" and self.num_classes is not None:
            check_label_values(part, self.num_classes)
            return
        wrong = np.sum(~np.isfinite(_numpy(part)))
        if wrong:
            name = name or "The condition"
            raise ValueError(f"{name} must be finite. Received: {wrong} values not finite.")

    def condition_inputs(self) -> Condition:
        """The required condition as `keras.Input`s, for export; None if nothing is required."""
        if not self.conditional:
            return None
        inputs = {k: keras.Input(s, name=k or "condition") for k, s in self._shapes.items()}
        if self.num_classes is not None:
            name = "labels" if self._named else "condition"
            inputs["labels"] = keras.Input((), dtype="int32", name=name)
        return next(iter(inputs.values())) if self._takes_array else inputs

    def get_build_config(self) -> dict:
        """Empty: the constructor builds the layers."""
        return {}

    def build_from_config(self, config: dict) -> None:
        """Do nothing: the constructor has built the layers."""


def _differs_in_training(layer):
    """Whether `call` takes `training`; a layer of Keras needs it for seeds or moving averages."""
    if "training" not in inspect.signature(layer.call).parameters:
        return False
    of_keras = type(layer).call.__module__.startswith("keras.")
    return not of_keras or bool(layer._seed_generators or layer._non_trainable_variables)


def check_label_values(labels: Tensor, num_classes: int) -> None:
    """Raise a ValueError for a label outside 0..num_classes; the last one is the null label."""
    labels = _numpy(labels)
    wrong = labels[(labels < 0) | (labels > num_classes)]
    if wrong.size:
        raise ValueError(
            f"Labels must lie in 0..{num_classes - 1} (or {num_classes}, the null "
            f"label). Received: {sorted(set(wrong.tolist()))[:5]}."
        )


def _check_label_type(labels, num_classes):
    if labels is None:
        raise ValueError(f"This network needs labels 0..{num_classes - 1}. Received none.")
    shape, dtype = _shape_and_type(labels)
    if len(shape) != 1 or not dtype.startswith(("int", "uint")):
        turn = "y[:, 0]" if shape[1:] == (1,) else "y.argmax(axis=1) of one-hot rows"
        raise ValueError(
            f"Labels are integers of shape (n,). Received: {dtype} of {shape or 'no rank'}."
            + (f" Pass {turn}." if len(shape) == 2 else "")
        )


def _check_array_type(name, array, shape):
    expected = f"(n, {', '.join(map(str, shape))})"
    if array is None:
        raise ValueError(f"{name} is an array {expected}. Received: None.")
    found, dtype = _shape_and_type(array)
    if not dtype.startswith(("float", "bfloat")) or found[1:] != shape:
        raise ValueError(
            f"{name} must hold floats of shape {expected}. Received: {dtype} of {found}."
        )


def _shape_and_type(array):
    """The shape and the name of the type of an array, a tensor of any library, or a list."""
    array = array if hasattr(array, "dtype") else np.asarray(array)
    known = getattr(array.shape, "rank", 0) is not None  # TensorFlow has shapes without a rank
    return tuple(array.shape) if known else (), getattr(
        array.dtype, "name", str(array.dtype)
    ).removeprefix("torch.")


def _numpy(array):
    return ops.convert_to_numpy(array) if keras.ops.is_tensor(array) else np.asarray(array)
