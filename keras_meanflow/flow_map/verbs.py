"""Keras' verbs on a FlowMap: compile, fit, evaluate, predict, save. They check what they get."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_meanflow.backend import alone, may_compile
from keras_meanflow.flow_map.checks import (
    are_arrays,
    array_of_weights,
    check_arrays,
    check_values,
    is_placeholder,
    placeholder,
    rows_of,
)
from keras_meanflow.flow_map.curriculum import Curriculum
from keras_meanflow.optimizers.choice import check_optimizer


class Verbs:
    """`compile`, `fit`, `evaluate`, `predict` and `save` of a FlowMap."""

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        *,
        loss: Any = None,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Configure training; arguments as in `keras.Model.compile`, except loss and metrics.

        Raises:
            ValueError: if `loss`, `metrics`, `loss_weights` or `weighted_metrics` is given, if the
                optimizer keeps an average itself, or for a learning rate that is negative or not
                finite.
        """
        names = ("loss_weights", "weighted_metrics")
        given = {"loss": loss, "metrics": metrics, **{k: kwargs.pop(k, None) for k in names}}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"compile({name}=...) has no meaning for a FlowMap: the target is made inside "
                    "the step. The loss belongs to the objective: MeanFlow(loss=...). "
                    f"Received: {name}={value!r}."
                )
        if not may_compile() and kwargs.get("jit_compile", "auto") is not False:
            warnings.warn(
                "Over several TensorFlow replicas the step runs without XLA.", stacklevel=2
            )
            kwargs["jit_compile"] = False
        super().compile(optimizer=optimizer, **kwargs)
        check_optimizer(self.optimizer, kwargs.get("jit_compile", "auto"))
        self.field.jit = self.jit_compile
        if self.optimizer.use_ema:
            raise ValueError(
                "At the end of fit, an optimizer's average replaces the raw weights. Leave "
                "it to FlowMap(averages=...): give the optimizer use_ema=False. "
                f"Received: {type(self.optimizer).__name__}(use_ema=True)."
            )

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile from a saved configuration, ready to load the optimizer's state."""
        config = keras.saving.deserialize_keras_object(config)
        left_out = ("loss", "metrics", "loss_weights", "weighted_metrics")
        self.compile(**{k: v for k, v in config.items() if k not in left_out})
        self.optimizer.build(self.trainable_variables)

    def make_train_function(self, force: bool = False) -> Any:
        """As in Keras, which calls it before it trains; the averages follow the weights."""
        self.follow_weights()
        return super().make_train_function(force)

    def make_test_function(self, force: bool = False) -> Any:
        """As in Keras, which calls it before it evaluates; the averages follow the weights."""
        self.follow_weights()
        return super().make_test_function(force)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Any = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; see its arguments.

        Arrays, tensors and `validation_data` are checked as a whole, other data batch by batch.
        Images outside [-1, 1] and labels that seem to count from 1 give a warning.

        Raises:
            ValueError: for no data, integer data, data of another shape than the network's, NaN,
                labels that are missing, unknown or no integers (n,), sample weights that are not
                a number a row, a batch too small for the share of rows with r < t, a model whose
                weights are all frozen, or scheduled values without a known length of training or
                a `horizon`.
        """
        kwargs = self._with_checked_validation(kwargs)
        y, kwargs = self._checked_data(x, y, kwargs)
        if not self.trainable_variables:
            raise ValueError("All weights are frozen: no layer of the network is trainable.")
        rows = rows_of(x, batch_size)
        if rows is not None:
            self.objective.check_batch(rows)
        callbacks = list(keras.tree.flatten(callbacks)) if callbacks is not None else []
        curricula = [callback for callback in callbacks if isinstance(callback, Curriculum)]
        for curriculum in curricula:
            curriculum.apply(self)
        callbacks = callbacks if curricula else [Curriculum(), *callbacks]
        return super().fit(x, y, batch_size, epochs, verbose, callbacks, **kwargs)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = "auto",
        sample_weight: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Evaluate as `keras.Model.evaluate` does, with the weights of `average`.

        Raises:
            ValueError: for the data that `fit` refuses.
        """
        y, weights = self._checked_data(x, y, {"sample_weight": sample_weight})
        return super().evaluate(x, y, batch_size, verbose, **weights, **kwargs)

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """u, with the raw weights, for a dict of `z`, `r`, `t` and, if any, `condition`.

        Raises:
            ValueError: for anything else: samples come from `generate`.
        """
        if not (isinstance(x, dict) and {"z", "r", "t"} <= {*x}) and not hasattr(x, "__next__"):
            received = f"a dict of {sorted(x)}" if isinstance(x, dict) else type(x).__name__
            raise ValueError(
                "predict takes a dict of z, r, t and the condition, and gives u. Samples come "
                f"from generate(labels). Received: {received}."
            )
        return super().predict(x, *args, **kwargs)

    def _checked_data(self, x, y, kwargs):
        """y and the arguments of `fit` and `evaluate`; arrays are checked as a whole."""
        weights = kwargs.get("sample_weight")
        self._untracked.looked = are_arrays(x)
        if not are_arrays(x):
            return y, kwargs
        if not is_placeholder(y):
            self.check_data(x, y)
            check_values(self.network, x, y, pixels=True)
        if weights is None:
            return y, kwargs
        rows = len(next(iter(keras.tree.flatten(x))))
        y = placeholder(rows) if y is None else y
        return y, {**kwargs, "sample_weight": array_of_weights(weights, rows)}

    def _with_checked_validation(self, kwargs):
        """The arguments of `fit`, with arrays in `validation_data` checked as in `evaluate`."""
        held_out = kwargs.get("validation_data")
        if not isinstance(held_out, tuple | list):
            return kwargs
        x, y, weights = (*held_out, None, None)[:3]
        y, checked = self._checked_data(x, y, {"sample_weight": weights})
        return {**kwargs, "validation_data": (x, y, checked["sample_weight"])}

    def check_data(self, x: Any, y: Any = None) -> None:
        """Raise a ValueError if arrays, or a dict of them, cannot be trained on."""
        check_arrays(self.network, x, y)

    def save(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; of several processes a single one may call it.

        Layers frozen one by one are trainable in the loaded model, and LoRA is merged into its
        weights, as for all Keras models of this kind.

        Raises:
            ValueError: for a file that does not end in `.keras`.
        """
        if not str(filepath).endswith(".keras") and not str(filepath).startswith("hf://"):
            raise ValueError(
                "A FlowMap is saved as a .keras file; save_weights writes .weights.h5. "
                f"Received: {str(filepath)!r}."
            )
        with alone():
            super().save(filepath, *args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save_weights`; of several processes a single one may call it."""
        with alone():
            super().save_weights(*args, **kwargs)
