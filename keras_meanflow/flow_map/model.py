"""FlowMap: a network, an objective and averages of the weights as a `keras.Model`."""

import types
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import keras
from keras import ops

# Loading a saved model finds its parts among the classes that have been imported.
from keras_meanflow import networks, objectives, optimizers, parts  # noqa: F401
from keras_meanflow.backend import Tensor, Trainer, local
from keras_meanflow.backend.random import check_seed
from keras_meanflow.flow_map.averages import Averages
from keras_meanflow.flow_map.checks import check_network, check_objective
from keras_meanflow.flow_map.field import Field, Prediction
from keras_meanflow.flow_map.generation import Generation
from keras_meanflow.flow_map.presets import Presets
from keras_meanflow.flow_map.steps import Steps
from keras_meanflow.flow_map.verbs import Verbs
from keras_meanflow.flow_map.weights import has_lora, is_lora, learnable, without_lora
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives import MeanFlow, Objective, Problem
from keras_meanflow.parts.part import register


@register
class FlowMap(Trainer, Steps, Verbs, Generation, Presets, keras.Model):
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
        check_network(network)
        network.ensure_built()
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
        self._untracked.prediction = Prediction(
            lambda inputs: Problem.of_data(inputs).predict(self.field, self.objective.predict_both)
        )
        self._averages = Averages(averages, self._copy)
        self._averages.follow(learnable(network), copy=True)
        self._average = next(iter(self.averages), None)
        self._keep_state()
        names = ("gradient_norm", *self.objective.logs)
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def _take(self, objective):
        """Set the objective, and track its networks as layers."""
        check_objective(self.network, objective)
        for teacher in objective.teachers:
            _freeze(teacher)
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
            dtype="float32",
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

    def call(self, inputs: dict, training: bool | None = None) -> Any:
        """The network's prediction for a dict of `z`, `r`, `t` and, if any, `condition`.

        For the inputs of a `Problem` from `as_data`, what its `predict` gives. With `training`,
        layers such as Dropout act as in training.
        """
        return self._untracked.prediction(inputs, training=bool(training))

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
        """The variables of an average by its decay, or the raw weights for None.

        Their order is that of `network.trainable_variables` while nothing is frozen; the weights of
        frozen layers are among them.
        """
        weights = learnable(self.network)
        if average is None:
            return weights
        self.follow_weights()
        return self._averages.of(average, weights)

    def follow_weights(self, *, replaced: bool = False) -> None:
        """Bring the averages up to date with the weights of the network.

        Training, evaluating and generating call it: a weight that was added since, as LoRA does,
        gets an average, and until the first update every average becomes the raw weights. Once
        trained, a model does not notice that its weights were replaced: call it then.

        Args:
            replaced: whether to set the averages of a trained model to its weights.

        Example:
            >>> flow_map.network.load_weights("other.weights.h5")
            >>> flow_map.follow_weights(replaced=True)
        """
        untrained = self.batches_done < self.accumulation
        self._averages.follow(learnable(self.network), copy=replaced or untrained)

    def chosen_pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Each weight with the variable used in its place to generate and evaluate."""
        return [] if self.average is None else self._averages.pairs(self.average)

    def chosen_values(self) -> tuple[list[keras.Variable], list[Tensor]]:
        """The variables of the network, and the values used to generate and evaluate."""
        self.follow_weights()
        chosen = {id(weight): average for weight, average in self.chosen_pairs()}
        variables = self.network.variables
        return variables, [local(chosen.get(id(v), v).value) for v in variables]

    def using_chosen_weights(self) -> AbstractContextManager[None]:
        """Context in which calls of the model use `chosen_weights`."""
        return self.field.using(self.chosen_pairs())

    # Saving

    def save_own_variables(self, store: dict) -> None:
        """As in Keras; in the averages LoRA is merged into its weights, as Keras does in layers."""
        own, values = self._saved_variables(), {}
        for decay in self.averages if has_lora(self.network) else ():
            pairs = self._averages.pairs(decay)
            averages = {id(weight): average for weight, average in pairs}
            with keras.StatelessScope(pairs):
                merged = [(averages.get(id(v)), value) for v, value in without_lora(self.network)]
            values |= {id(average): value for average, value in merged if average is not None}
        for i, variable in enumerate(own):
            store[str(i)] = values.get(id(variable), variable)

    def load_own_variables(self, store: dict) -> None:
        """As in Keras; the averages of LoRA's factors become 0, as Keras does in layers."""
        own = self._saved_variables()
        if len(store.keys()) != len(own):
            raise ValueError(
                f"The file is of another FlowMap: it has {len(store.keys())} numbers and averages "
                f"of its own, this one {len(own)}. Give the same network, objective and averages."
            )
        for i, variable in enumerate(own):
            variable.assign(store[str(i)])
        for variable in self._lora_averages():
            variable.assign(ops.zeros(variable.shape))

    def _saved_variables(self):
        """The scalars and averages that a file holds: those of a network without LoRA."""
        left_out = {id(variable) for variable in self._lora_averages()}
        own = self._trainable_variables + self._non_trainable_variables
        return [variable for variable in own if id(variable) not in left_out]

    def _lora_averages(self):
        pairs = (pair for decay in self.averages for pair in self._averages.pairs(decay))
        return [average for weight, average in pairs if is_lora(weight)]

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
        flow_map = cls(**config)
        if not flow_map.network.trainable:
            _freeze(flow_map.network)
        return flow_map


def _freeze(network):
    # A network loaded as frozen has layers that are not, and on TensorFlow setting the same value
    # again does nothing: so set both values.
    network.trainable = True
    network.trainable = False


def _kind(objective):
    return f"{type(objective).__name__} with {type(objective.loss).__name__}"
