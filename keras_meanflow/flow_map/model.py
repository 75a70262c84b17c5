"""FlowMap: a network, an objective and their averages as a `keras.Model`."""

import types
import warnings

import keras
import numpy as np
from keras import ops

# Loading a saved model finds its parts among the classes that have been imported.
from keras_meanflow import networks, objectives, optimizers, parts  # noqa: F401
from keras_meanflow.backend import Trainer, alone, may_compile
from keras_meanflow.flow_map.averages import Averages
from keras_meanflow.flow_map.checks import check_arrays, check_objective, rows_of
from keras_meanflow.flow_map.curriculum import Curriculum
from keras_meanflow.flow_map.field import Field
from keras_meanflow.flow_map.generation import Generation
from keras_meanflow.flow_map.presets import Presets
from keras_meanflow.flow_map.steps import Steps
from keras_meanflow.objectives import MeanFlow, Problem
from keras_meanflow.parts.part import register


@register
class FlowMap(Trainer, Steps, Generation, Presets, keras.Model):
    """A generative model `x = e - u(e, 0, 1)` that trains with `fit(x, y)`.

    The objective turns each batch into a regression problem without gradient; Keras' own train
    step solves it. `fit` takes data x (or {"x", "e"}, stored pairs) and the condition y; sample
    weights multiply the objective's. Logged: `loss`, the unnormalised squared errors `v_error` of
    rows with r = t and `u_error` of rows with r < t, `gradient_norm`, and what the objective adds.
    Networks of the objective (see `Objective`) are tracked: teachers are frozen, all are saved.
    So is the layer that a loss trains along, such as a log variance.

    Args:
        network: a `Network`.
        objective: an `Objective`; `MeanFlow()` by default.
        averages: decays of the weight averages that are kept beside the raw weights, with warm-up
            (see `Averages`). Generating, evaluating and exporting use `average`, at first the
            first of them.
        horizon: number of optimizer steps over which schedules run, or None to take it from `fit`.
        seed: seed of all draws of training.
        float32_derivative: compute du/dt in float32 where the network computes in bfloat16.

    Raises:
        ValueError: for a network in float16, a decay outside [0, 1), a network that the objective
            cannot train, or an objective's network that is the network itself or has another data
            shape.

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
        network,
        objective=None,
        *,
        averages=(0.9999,),
        horizon=None,
        seed=0,
        float32_derivative=False,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if network.compute_dtype == "float16":
            raise ValueError(
                "float16 ends at 65,504: du/dt, which grows with the time scale and the depth, and "
                "the loss scale that float16 needs overflow it. Use mixed_bfloat16. "
                f"Received: a network with {network.dtype_policy.name}."
            )
        self.network, self.seed = network, int(seed)
        self.field = Field(network, float32_derivative=float32_derivative)
        self._take(MeanFlow() if objective is None else objective)
        # A saved model has the loss's layer and the variables under these names, in this order.
        layer = self.objective.loss_layer
        self.log_variance = layer and layer(name="log_variance")
        if layer:
            self.log_variance.build(None)
        self.step, self.start, self.horizon, self.evaluation_step = (
            self._scalar(name, 0) for name in ("step", "start", "horizon", "evaluation_step")
        )
        self.fixed_horizon = horizon
        self.horizon.assign(horizon or 0)
        # Kept from Keras' tracking, which has the variables already.
        self._untracked = types.SimpleNamespace(state={}, errors={}, steps={})
        self._averages = Averages(averages, network.trainable_variables, self._copy)
        self._average = next(iter(self.averages), None)
        self._keep_state()
        names = ("gradient_norm", *self.objective.logs)
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def _take(self, objective):
        """Take an objective, and its networks among the tracked layers."""
        check_objective(self.network, objective)
        for teacher in objective.teachers:
            # Loaded as frozen, its layers are not; TensorFlow skips what is set already.
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
        """Make variables of the scalars that the objective carries from step to step."""
        for name, variable in self.objective.state.items():
            if name not in self._untracked.state:
                self._untracked.state[name] = self._scalar(name, variable.first)

    @property
    def state(self):
        """The scalars that the objective carries from step to step, name -> variable."""
        return {name: self._untracked.state[name] for name in self.objective.state}

    def call(self, inputs):
        """The network's prediction for a dict of `z`, `r`, `t` and, if any, `condition`.

        For the inputs of a `Problem` from `as_data`, what its `predict` gives.
        """
        return Problem.of_data(inputs).predict(self.field, self.objective.predict_both)

    # Compiling and fitting

    def compile(self, optimizer="adam", *, loss=None, metrics=None, **kwargs):
        """Configure training; arguments as in `keras.Model.compile`, except loss and metrics.

        Raises:
            ValueError: if `loss` or `metrics` is given, or the optimizer keeps an average itself.
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
        self.field.jit = self.jit_compile
        if self.optimizer.use_ema:
            raise ValueError(
                "At the end of fit, an optimizer's own average replaces the raw weights. Leave "
                "it to FlowMap(averages=...): give the optimizer use_ema=False. "
                f"Received: {type(self.optimizer).__name__}(use_ema=True)."
            )

    def compile_from_config(self, config):
        """Compile from a saved configuration, ready to load the optimizer's state."""
        config = keras.saving.deserialize_keras_object(config)
        self.compile(**{k: v for k, v in config.items() if k not in ("loss", "metrics")})
        self.optimizer.build(self.trainable_variables)

    def fit(self, x=None, y=None, *args, callbacks=None, **kwargs):
        """Train as `keras.Model.fit` does; see its arguments.

        Raises:
            ValueError: for integer data, data of another shape than the network's, NaN, unknown
                labels, a batch too small for the share of rows with r < t, or scheduled values
                and neither a known length nor `horizon`.
        """
        if isinstance(x, np.ndarray | dict):
            self.check_data(x, y)
        rows = rows_of(x, args[0] if args else kwargs.get("batch_size"))
        if rows is not None:
            self.objective.check_batch(rows)
        callbacks = list(keras.tree.flatten(callbacks)) if callbacks is not None else []
        curricula = [callback for callback in callbacks if isinstance(callback, Curriculum)]
        for curriculum in curricula:
            curriculum.apply(self)
        callbacks = callbacks if curricula else [Curriculum(), *callbacks]
        return super().fit(x, y, *args, callbacks=callbacks, **kwargs)

    def set_objective(self, objective):
        """Train on with another objective; one of another kind needs a new FlowMap.

        Raises:
            ValueError: for an objective that logs other quantities, or whose loss trains a layer
                where this one's does not.
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
            self.train_function = self.test_function = None  # compiled for the one before

    def check_data(self, x, y=None):
        """Raise a ValueError if NumPy arrays cannot be trained on."""
        check_arrays(self.network, x, y)

    # Averages

    @property
    def averages(self):
        """The decays of the averages that are kept."""
        return self._averages.decays

    @property
    def average(self):
        """The decay of the average that generates, evaluates and is exported; None for raw."""
        return self._average

    @average.setter
    def average(self, decay):
        self.weights_of(decay)
        self._average = decay
        self.test_function = None  # it was compiled for the weights chosen before

    @property
    def chosen_weights(self):
        """The variables that generate and evaluate: those of `average`, or the raw weights."""
        return self.weights_of(self.average)

    def weights_of(self, average):
        """The variables of an average by its decay, or the raw weights for None."""
        return self.network.trainable_variables if average is None else self._averages.of(average)

    def using_chosen_weights(self):
        """Context in which calls of the model use `chosen_weights`."""
        return self.field.using(
            zip(self.network.trainable_variables, self.chosen_weights, strict=True)
        )

    # Saving

    def save(self, *args, **kwargs):
        """As `keras.Model.save`; over several processes one may do it by itself."""
        with alone():
            super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """As `keras.Model.save_weights`; over several processes one may do it by itself."""
        with alone():
            super().save_weights(*args, **kwargs)

    def get_config(self):
        """The arguments."""
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "objective": keras.saving.serialize_keras_object(self.objective),
            "averages": list(self.averages),
            "horizon": self.fixed_horizon,
            "seed": self.seed,
            "float32_derivative": self.field.float32_derivative,
        }

    @classmethod
    def from_config(cls, config):
        """The model of these arguments."""
        config = dict(config)
        for name in ("network", "objective"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


def _kind(objective):
    return f"{type(objective).__name__} with {type(objective.loss).__name__}"
