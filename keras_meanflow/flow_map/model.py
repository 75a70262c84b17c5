"""FlowMap: a network, an objective and averages of the weights as a `keras.Model`."""

import types
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import keras
from keras import ops

# Loading a saved model finds its parts among the classes that have been imported.
from keras_meanflow import networks, objectives, optimizers, parts  # noqa: F401
from keras_meanflow.backend import Trainer, alone, may_compile
from keras_meanflow.backend.random import check_seed
from keras_meanflow.flow_map.averages import Averages
from keras_meanflow.flow_map.checks import (
    are_arrays,
    check_arrays,
    check_objective,
    check_values,
    rows_of,
)
from keras_meanflow.flow_map.curriculum import Curriculum
from keras_meanflow.flow_map.field import Field
from keras_meanflow.flow_map.generation import Generation
from keras_meanflow.flow_map.presets import Presets
from keras_meanflow.flow_map.steps import Steps
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives import MeanFlow, Objective, Problem
from keras_meanflow.optimizers.choice import check_optimizer
from keras_meanflow.parts.part import register


@register
class FlowMap(Trainer, Steps, Generation, Presets, keras.Model):
    """A generative model `x = e - u(e, 0, 1)` that trains with `fit(x, y)`.

    The objective turns each batch into a regression problem without gradient; Keras' train
    step solves it. `fit` takes data x (or {"x", "e"}, stored pairs) and the condition y; sample
    weights multiply the objective's. Logged: `loss`, the unnormalised squared errors `v_error` of
    rows with r = t and `u_error` of rows with r < t, `gradient_norm`, and what the objective adds.
    The objective's networks (see `Objective`) are tracked and saved, and teachers are frozen. A
    layer that the loss trains, such as a log variance, is saved too.

    Args:
        network: a `Network`.
        objective: an `Objective`; `MeanFlow()` by default.
        averages: decays of the weight averages that are kept beside the raw weights, with warm-up
            (see `Averages`). Generating, evaluating and exporting use `average`: the first
            of them, until it is set.
        horizon: number of optimizer steps over which schedules run, or None to take it from `fit`.
        seed: seed of all draws of training.
        float32_derivative: compute du/dt in float32 where the network computes in bfloat16.
        class_names: names of the labels 0, 1, ..., saved with the model.

    Raises:
        ValueError: for a network in float16, a decay outside [0, 1), a network that the objective
            cannot train, or an objective one of whose networks is the network itself or has
            another data shape.

    Example:
        >>> flow_map = FlowMap(DiT.from_size("S/4", image_size=32, channels=3, num_classes=10))
        >>> flow_map.compile(keras.optimizers.Adam(1e-4))
        >>> flow_map.fit(images, labels, batch_size=64, epochs=1)
        >>> samples = flow_map.generate(labels=[0, 1, 2], seed=0)

    References:
        Mean Flows for One-step Generative Modeling (arXiv 2505.13447).
    """

    def __init__(
        self,
        network: Network,
        objective: Objective | None = None,
        *,
        averages: Sequence[float] = (0.9999,),
        horizon: int | None = None,
        seed: int = 0,
        float32_derivative: bool = False,
        class_names: Sequence[str] = (),
        **kwargs: Any,
    ):
        super().__init__(autocast=False, **kwargs)
        if network.compute_dtype == "float16":
            raise ValueError(
                "float16 ends at 65,504: du/dt, which grows with the time scale and the depth, and "
                "the loss scale that float16 needs overflow it. Use mixed_bfloat16. "
                f"Received: a network with {network.dtype_policy.name}."
            )
        self.network, self.seed = network, check_seed(seed)
        self.class_names = tuple(class_names)
        self.field = Field(network, float32_derivative=float32_derivative)
        self._take(MeanFlow() if objective is None else objective)
        # Saved models rely on the names and the order of this layer and these variables.
        layer = self.objective.loss_layer
        self.log_variance = layer and layer(name="log_variance")
        if layer:
            self.log_variance.build(None)
        self.step, self.start, self.horizon, self.evaluation_step = (
            self._scalar(name, 0) for name in ("step", "start", "horizon", "evaluation_step")
        )
        self.fixed_horizon = horizon
        self.horizon.assign(horizon or 0)
        # Hidden from Keras' tracking, which has the variables already.
        self._untracked = types.SimpleNamespace(state={}, errors={}, steps={}, looked=False)
        self._averages = Averages(averages, network.trainable_variables, self._copy)
        self._average = next(iter(self.averages), None)
        self._keep_state()
        names = ("gradient_norm", *self.objective.logs)
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def _take(self, objective):
        """Set the objective, and track its networks as layers."""
        check_objective(self.network, objective)
        for teacher in objective.teachers:
            # A teacher loaded as frozen has layers that are not, and on TensorFlow setting the same
            # value again does nothing: so set both values.
            teacher.trainable = True
            teacher.trainable = False
        self.objective, self.teachers = objective, objective.teachers
        self.companion = objective.companion

    def _scalar(self, name, first):
        variable = self.add_weight(
            shape=(),
            initializer="zeros",
            dtype="int32" if isinstance(first, int) else "float32",
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )
        variable.assign(first)
        return variable

    def _copy(self, weight):
        copy = self.add_weight(
            shape=weight.shape,
            initializer="zeros",
            dtype=weight.dtype,
            trainable=False,
            name="average_" + weight.path.replace("/", "_"),
            aggregation="only_first_replica",
        )
        copy.assign(ops.copy(weight.value))  # JAX donates buffers: never share one
        return copy

    def _keep_state(self):
        """Make variables for the scalars that the objective carries from step to step."""
        for name, variable in self.objective.state.items():
            if name not in self._untracked.state:
                self._untracked.state[name] = self._scalar(name, variable.first)

    @property
    def state(self) -> dict[str, keras.Variable]:
        """The scalars that the objective carries from step to step, name -> variable."""
        return {name: self._untracked.state[name] for name in self.objective.state}

    def call(self, inputs: dict) -> Any:
        """The network's prediction for a dict of `z`, `r`, `t` and, if any, `condition`.

        For the inputs of a `Problem` from `as_data`, what its `predict` gives.
        """
        return Problem.of_data(inputs).predict(self.field, self.objective.predict_both)

    # Compiling and fitting

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
            ValueError: if `loss` or `metrics` is given, if the optimizer keeps an average itself,
                or for a learning rate that is negative or not finite.
        """
        for name, value in (("loss", loss), ("metrics", metrics)):
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
        self.compile(**{k: v for k, v in config.items() if k not in ("loss", "metrics")})
        self.optimizer.build(self.trainable_variables)

    def fit(
        self, x: Any = None, y: Any = None, *args: Any, callbacks: Any = None, **kwargs: Any
    ) -> keras.callbacks.History:
        """Train as `keras.Model.fit` does; see its arguments.

        Arrays, tensors and `validation_data` are checked as a whole, other data batch by batch.
        Images outside [-1, 1] and labels that seem to count from 1 give a warning.

        Raises:
            ValueError: for integer data, data of another shape than the network's, NaN, labels that
                are missing, unknown or no integers (n,), a batch too small for the share of rows
                with r < t, or scheduled values without a known length of training or a `horizon`.
        """
        self._look_at(*_x_and_y(kwargs.get("validation_data")))
        self._look_at(x, y)
        rows = rows_of(x, args[0] if args else kwargs.get("batch_size"))
        if rows is not None:
            self.objective.check_batch(rows)
        callbacks = list(keras.tree.flatten(callbacks)) if callbacks is not None else []
        curricula = [callback for callback in callbacks if isinstance(callback, Curriculum)]
        for curriculum in curricula:
            curriculum.apply(self)
        callbacks = callbacks if curricula else [Curriculum(), *callbacks]
        return super().fit(x, y, *args, callbacks=callbacks, **kwargs)

    def evaluate(self, x: Any = None, y: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Evaluate as `keras.Model.evaluate` does, with the same checks of data as `fit`."""
        self._look_at(x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def _look_at(self, x, y):
        """Check arrays as a whole; other data are checked batch by batch."""
        self._untracked.looked = are_arrays(x)
        if are_arrays(x):
            self.check_data(x, y)
            check_values(self.network, x, y, pixels=True)

    def set_objective(self, objective: Objective) -> None:
        """Continue with another objective of the same kind; another kind needs a new FlowMap.

        Raises:
            ValueError: for an objective that logs other quantities, or whose loss trains another
                layer or none.
        """
        old = self.objective
        if set(objective.logs) != set(old.logs) or objective.loss_layer != old.loss_layer:
            raise ValueError(
                f"A FlowMap keeps the kind of its objective, {_kind(old)}. "
                f"Received: {_kind(objective)}."
            )
        if objective != old:
            self._take(objective)
            self._keep_state()
            self.train_function = self.test_function = None  # compiled for the old one

    def check_data(self, x: Any, y: Any = None) -> None:
        """Raise a ValueError if arrays, or a dict of them, cannot be trained on."""
        check_arrays(self.network, x, y)

    # Averages

    @property
    def averages(self) -> tuple[float, ...]:
        """The decays of the averages that are kept."""
        return self._averages.decays

    @property
    def average(self) -> float | None:
        """The decay of the average used to generate, evaluate and export; None for raw weights."""
        return self._average

    @average.setter
    def average(self, decay: float | None) -> None:
        self.weights_of(decay)
        self._average = decay
        self.test_function = None  # it was compiled for the weights chosen before

    @property
    def chosen_weights(self) -> list[keras.Variable]:
        """The variables used to generate and evaluate: `average`, or the raw weights."""
        return self.weights_of(self.average)

    def weights_of(self, average: float | None) -> list[keras.Variable]:
        """The variables of an average by its decay, or the raw weights for None."""
        return self.network.trainable_variables if average is None else self._averages.of(average)

    def using_chosen_weights(self) -> AbstractContextManager[None]:
        """Context in which calls of the model use `chosen_weights`."""
        return self.field.using(
            zip(self.network.trainable_variables, self.chosen_weights, strict=True)
        )

    # Saving

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`; of several processes a single one may call it."""
        with alone():
            super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save_weights`; of several processes a single one may call it."""
        with alone():
            super().save_weights(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "averages": list(self.averages),
            "horizon": self.fixed_horizon,
            "seed": self.seed,
            "float32_derivative": self.field.float32_derivative,
            **({"class_names": list(self.class_names)} if self.class_names else {}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The model of these arguments."""
        config = dict(config)
        for name in ("network", "objective"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _x_and_y(data):
    """x and y of validation data: a tuple of arrays, or a data set."""
    return keras.utils.unpack_x_y_sample_weight(data)[:2]


def _kind(objective):
    return f"{type(objective).__name__} with {type(objective.loss).__name__}"
