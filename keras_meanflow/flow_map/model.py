"""FlowMap: a network, an objective and their averages as a `keras.Model`."""

import contextlib
import threading
import types
import warnings

import keras
import numpy as np
from keras import ops

from keras_meanflow import networks, optimizers  # noqa: F401
from keras_meanflow.backend import (
    Trainer,
    alone,
    compiled_network,
    first_row,
    global_norm,
    inside_jvp,
    jvp_with_gradient,
    lerp,
    local,
    may_compile,
    replica_sum,
)
from keras_meanflow.backend.random import Keys
from keras_meanflow.flow_map.curriculum import Curriculum
from keras_meanflow.flow_map.generation import Generation
from keras_meanflow.flow_map.presets import Presets
from keras_meanflow.networks.layers import LogVariance
from keras_meanflow.objectives import MeanFlow
from keras_meanflow.objectives.problem import arguments_of

# Loading a saved model finds its parts among the classes that have been imported.
from keras_meanflow.parts import couplings, schedules, times  # noqa: F401
from keras_meanflow.parts.losses import LearnedVarianceLoss, squared_norm
from keras_meanflow.parts.part import register
from keras_meanflow.parts.rows import Rows, per_row

_EVALUATION_SEED = 0x5EED


@register
class FlowMap(Trainer, Generation, Presets, keras.Model):
    """A generative model `x = e - u(e, 0, 1)` that trains with `fit(x, y)`.

    The objective turns each batch into a regression problem without gradient; Keras' own train
    step solves it. `fit` takes data x (or {"x", "e"}, stored pairs) and the condition y; sample
    weights multiply the objective's. Logged: `loss`, the unnormalised squared errors `v_error` of
    rows with r = t and `u_error` of rows with r < t, `gradient_norm`, and what the objective adds.
    Networks of the objective's own (see `Objective`) are tracked: teachers frozen, all saved. So is
    `log_variance`, a layer that a `LearnedVarianceLoss` has trained along.

    Args:
        network: a `Network`.
        objective: an `Objective`; `MeanFlow()` by default.
        averages: decays of the weight averages that are kept beside the raw weights, with warm-up
            `min(decay, (1 + n) / (10 + n))` after n updates. Generating, evaluating and exporting
            use `average`, at first the first of them.
        horizon: number of optimizer steps over which schedules run, or None to take it from `fit`.
        seed: seed of all draws of training.
        float32_derivative: compute du/dt in float32 where the network computes in bfloat16.

    Raises:
        ValueError: for a network in float16, a decay outside [0, 1), a network that the objective
            cannot train, or an objective's network that is the network itself or of another data
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
        if any(not 0.0 <= decay < 1.0 for decay in averages):
            raise ValueError(f"averages are decays in [0, 1). Received: {tuple(averages)}.")
        self.network = network
        self._own(MeanFlow() if objective is None else objective)
        self.averages, self.seed = tuple(averages), int(seed)
        self.log_variance = None
        if isinstance(self.objective.loss, LearnedVarianceLoss):
            self.log_variance = LogVariance(name="log_variance")
            self.log_variance.build(None)
        self.fixed_horizon, self.float32_derivative = horizon, float32_derivative
        self.step = self._counter("step")
        self.start = self._counter("start")
        self.horizon = self._counter("horizon")
        self.evaluation_step = self._counter("evaluation_step")
        if horizon is not None:
            self.horizon.assign(horizon)
        # Kept from Keras' tracking, which has the variables already.
        self._untracked = types.SimpleNamespace(
            averages={decay: self._copies() for decay in self.averages},
            calls_use=None,
            compiled=None,
            steps={},
            v_error={},
        )
        self.average = self.averages[0] if self.averages else None
        names = ("gradient_norm", *self.objective.logs)
        self._add_stage()
        self._trackers = {name: keras.metrics.Mean(name=name) for name in names}
        self.built = True

    def _own(self, objective):
        """Take an objective, and its networks among the tracked layers."""
        objective.check_network(self.network)
        companion, teachers = objective.companion, objective.teachers
        for network in (*teachers, *([companion] if companion else [])):
            if network is self.network or network.data_shape != self.network.data_shape:
                raise ValueError(
                    "An objective's network is another one than that which is trained, for data "
                    f"of its shape, {self.network.data_shape}. Received: {type(network).__name__} "
                    f"{network.name!r} for {network.data_shape}."
                )
        for teacher in teachers:
            # Loaded as frozen, its layers are not; TensorFlow skips what is set already.
            teacher.trainable = True
            teacher.trainable = False
        self.objective, self.teachers, self.companion = objective, teachers, companion

    def _counter(self, name):
        return self._scalar(name, "int32")

    def _scalar(self, name, dtype):
        return self.add_weight(
            shape=(),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )

    def _add_stage(self):
        """Variables of a time sampler that moves by stages; see `Plateau`."""
        if self.pacing is None or hasattr(self, "stage"):
            return
        self.stage, self.stage_count = self._counter("stage"), self._counter("stage_count")
        self.stage_error = self._scalar("stage_error", "float32")
        self.stage_best = self._scalar("stage_best", "float32")
        self.stage_error.assign(-1.0)

    def _copies(self):
        copies = []
        for weight in self.network.trainable_variables:
            copy = self.add_weight(
                shape=weight.shape,
                initializer="zeros",
                dtype=weight.dtype,
                trainable=False,
                name="average_" + weight.path.replace("/", "_"),
                aggregation="only_first_replica",
            )
            copy.assign(ops.copy(weight.value))  # JAX donates buffers: never share one
            copies.append(copy)
        return copies

    def call(self, inputs):
        """The network's prediction for a dict of `z`, `r`, `t` and, if any, `condition`.

        With the `tangent` of a `Problem`, a dict: the prediction `u`, and `du_dt`, which is zero on
        the rows with r = t.
        """
        with self.calling():
            if "second" in inputs:
                return self.objective.predict_both(self.network, inputs, inputs["second"])
            if "tangent" in inputs:
                return self._call_in_one_pass(inputs)
            return self.call_network(*arguments_of(inputs))

    def call_network(self, *inputs):
        """The network's output, through `torch.compile` where the step is compiled so."""
        if not self.jit_compile or self._untracked.calls_use is not None:
            return self.network(*inputs)
        if self._untracked.compiled is None:
            self._untracked.compiled = compiled_network(self.network)
        return self._untracked.compiled(*inputs)

    def predict_velocity(self, z, r, t, condition=None):
        """u, in float32 where a derivative is asked for in it."""
        if not (self.float32_derivative and inside_jvp()):
            return self.call_network(z, r, t, condition)
        with self.network.computing_in_float32():
            return self.call_network(z, r, t, condition)

    def calling(self):
        """Within, the network has the weights that calls of the model use at present."""
        use = self._untracked.calls_use
        return contextlib.nullcontext() if use is None else keras.StatelessScope(use)

    def _call_in_one_pass(self, inputs):
        inputs = {**inputs}
        tangent = inputs.pop("tangent")
        rows = Rows(ops.shape(inputs["z"])[0], ops.shape(tangent)[0])
        z, r, t, condition = arguments_of(rows.below(inputs))
        u, du_dt = jvp_with_gradient(
            lambda z, r, t: self.predict_velocity(z, r, t, condition),
            (z, r, t),
            (tangent, ops.zeros_like(r), ops.ones_like(t)),
        )
        du_dt = rows.replace(ops.zeros_like(inputs["z"]), du_dt)
        if not rows.all_below:
            u = rows.join(u, self.call_network(*arguments_of(rows.equal(inputs))))
        return {"u": u, "du_dt": du_dt}

    # Compiling and fitting

    def compile(self, optimizer="adam", *, loss=None, metrics=None, **kwargs):
        """Configure training; arguments as in `keras.Model.compile`, but for the loss and metrics.

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
        if isinstance(x, (np.ndarray, dict)):
            self.check_data(x, y)
        self._check_batch_size(x, args[0] if args else kwargs.get("batch_size"))
        callbacks = list(keras.tree.flatten(callbacks)) if callbacks is not None else []
        curricula = [callback for callback in callbacks if isinstance(callback, Curriculum)]
        for curriculum in curricula:
            curriculum.apply(self)
        callbacks = callbacks if curricula else [Curriculum(), *callbacks]
        return super().fit(x, y, *args, callbacks=callbacks, **kwargs)

    @property
    def pacing(self):
        """The rule by which the time sampler's stages follow one another, or None."""
        return self.objective.times.pacing

    def set_objective(self, objective):
        """Train on with another objective; one of another kind needs a new FlowMap.

        Raises:
            ValueError: for an objective that logs other quantities, or whose loss learns a variance
                where this one's does not.
        """
        learned = isinstance(objective.loss, LearnedVarianceLoss)
        if set(objective.logs) != set(self.objective.logs) or learned != bool(self.log_variance):
            raise ValueError(
                f"A FlowMap keeps the kind of its objective, {_kind(self.objective)}. "
                f"Received: {_kind(objective)}."
            )
        if objective != self.objective:
            self._own(objective)
            self._add_stage()
            self.train_function = self.test_function = None  # compiled for the one before

    def _check_batch_size(self, x, batch_size):
        if isinstance(x, (np.ndarray, dict)):
            batch_size = min(batch_size or 32, len(next(iter(keras.tree.flatten(x)))))
        batch_size = batch_size or getattr(x, "batch_size", None)
        if batch_size is not None:
            self.objective.check_batch(int(batch_size))

    def check_data(self, x, y=None):
        """Raise a ValueError if arrays cannot be trained on."""
        for name, array in (x if isinstance(x, dict) else {"x": x}).items():
            self._check_batch(name, array)
            bad = ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
            if bad.any():
                raise ValueError(
                    f"Data must be finite. {bad.sum()} rows of {name} hold NaN or infinity, the "
                    f"first at index {int(np.argmax(bad))}."
                )
        self.network.check_condition(y)

    def _check_batch(self, name, array):
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(array.dtype)):
            raise ValueError(
                f"Data must be floats, images scaled to [-1, 1]. Received: {name} of {array.dtype}."
            )
        if tuple(array.shape[1:]) != self.network.data_shape:
            raise ValueError(
                f"Data must have the network's shape (batch, *{self.network.data_shape}). "
                f"Received: {name} of shape {tuple(array.shape)}."
            )

    # One step

    @property
    def batches_done(self):
        """`step` as a Python integer; it waits for the device."""
        return int(ops.convert_to_numpy(local(self.step.value)))

    @property
    def accumulation(self):
        """Batches an optimizer step."""
        optimizer = getattr(self, "optimizer", None)
        return getattr(optimizer, "gradient_accumulation_steps", None) or 1

    @property
    def progress(self):
        """Training progress p in [0, 1], float32; 1 before any horizon is known."""
        done = ops.cast(self.step.value // self.accumulation - self.start.value, "float32")
        horizon = ops.cast(self.horizon.value, "float32")
        p = ops.clip(done / ops.maximum(horizon, 1.0), 0.0, 1.0)
        return ops.where(horizon > 0.0, p, 1.0)

    def build_problem(self, data, *, training):
        """The regression problem of a batch; called by the train and test steps."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        x, y, sample_weight = keras.tree.map_structure(
            lambda a: a if a is None else ops.convert_to_tensor(a), (x, y, sample_weight)
        )
        for name, array in (x if isinstance(x, dict) else {"x": x}).items():
            self._check_batch(name, array)
        x = keras.tree.map_structure(lambda a: ops.cast(a, "float32"), x)
        rows = ops.shape(next(iter(keras.tree.flatten(x))))[0]
        keys = self.keys(rows, training=training)
        y = self.network.training_condition(y, keys, rows) if training else y
        draws = self.objective.draw(keys, x, y)
        make = self.objective.training_problem if training else self.objective
        problem = make(_Field(self), x, y, draws)
        return problem.weighted(sample_weight)

    def keys(self, rows, *, training=True):
        """The draws of the present step for a replica's batch of `rows`."""
        if training:
            stage = self.stage.value if self.pacing else 0
            return Keys(self.seed, self.step.value, first_row(rows), self.progress, stage)
        last = self.objective.times.last_stage
        return Keys(_EVALUATION_SEED, self.evaluation_step.value, first_row(rows), 1.0, last)

    def compute_loss(self, x, y, y_pred, sample_weight, training=True):
        """The objective's loss of a problem, and the network's own losses."""
        del training
        u, target = _prediction_and_target(x, y, y_pred)
        if self.log_variance is not None:
            r, t = (_all_rows(x, name) for name in "rt")
            u = {"u": u, "log_variance": self.log_variance(r, t)}
        loss = self.objective.loss(target, u, sample_weight=sample_weight)
        return loss + sum(self._aggregate_additional_loss(extra) for extra in self.losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Track the unnormalised squared errors on and off the diagonal."""
        u, target = _prediction_and_target(x, y, y_pred)
        error = squared_norm(ops.cast(u, "float32") - target)
        rows = ops.shape(x["t"])[0]
        if "second_error" in self._trackers:
            self._trackers["second_error"].update_state(error[rows:])
        error = error[:rows]
        below = ops.cast(x["r"] < x["t"], "float32")
        if "tangent" in x:
            norm = ops.sqrt(squared_norm(y_pred["du_dt"]))
            self._trackers["du_dt_norm"].update_state(norm, sample_weight=below)
        # A target that is the prediction itself but for a push has no error to speak of.
        pushed = ops.cast(y["self_share"][:rows] == 1.0, "float32") if "self_share" in y else 0.0
        below, on = below * (1.0 - pushed), (1.0 - below) * (1.0 - pushed)
        self._trackers["v_error"].update_state(error, sample_weight=on)
        if self.pacing:
            # TensorFlow's replicas take their steps in threads of their own.
            sums = ops.sum(error * on), ops.sum(on)
            self._untracked.v_error[threading.get_ident()] = sums
        if "u_error" in self._trackers:
            self._trackers["u_error"].update_state(error, sample_weight=below)
        return self.get_metrics_result()

    def finish_train_step(self, problem, gradients):
        """After the optimizer: logs, averages, and the count of batches."""
        self._trackers["gradient_norm"].update_state(global_norm(gradients))
        self._log(problem)
        # An accumulation's last batch moves the weights, and only then the averages.
        updates = self.step.value // self.accumulation
        moved = ops.equal((self.step.value + 1) % self.accumulation, 0)
        n = ops.cast(updates, "float32")
        for decay, averaged in self._untracked.averages.items():
            amount = 1.0 - ops.minimum(decay, (1.0 + n) / (10.0 + n))
            amount = ops.where(moved, amount, 0.0)
            lerp(averaged, self.network.trainable_variables, amount)
        if self.pacing:
            self._pace()
        self.step.assign(self.step.value + 1)

    def _pace(self):
        """Move the stage by this step's error on the rows with r = t, of all replicas."""
        sums = self._untracked.v_error.pop(threading.get_ident())
        total, count = (replica_sum(value) for value in sums)
        variables = self.stage, self.stage_count, self.stage_error, self.stage_best
        now = [variable.value for variable in variables]
        after = self.pacing(total / ops.maximum(count, 1.0), now)
        for variable, old, new in zip(variables, now, after, strict=True):
            variable.assign(ops.where(count > 0.0, ops.cast(new, variable.dtype), old))

    def finish_test_step(self, problem):
        """After an evaluation batch: logs and the count of evaluation batches."""
        self._log(problem)
        self.evaluation_step.assign(self.evaluation_step.value + 1)

    def test_logs(self):
        """The metrics of an evaluation."""
        return {k: v for k, v in self.get_metrics_result().items() if k != "gradient_norm"}

    def _log(self, problem):
        for name, (values, weights) in problem.logs.items():
            self._trackers[name].update_state(values, sample_weight=weights)

    def reset_metrics(self):
        """Reset the metrics and the count of evaluation batches."""
        super().reset_metrics()
        self.evaluation_step.assign(0)

    # Averages

    @property
    def average(self):
        """The decay of the average that generates, evaluates and is exported; None for raw."""
        return self._untracked.average

    @average.setter
    def average(self, decay):
        self.weights_of(decay)
        self._untracked.average = decay
        self.test_function = None  # it was compiled for the weights chosen before

    @property
    def chosen_weights(self):
        """The variables that generate and evaluate: those of `average`, or the raw weights."""
        return self.weights_of(self.average)

    def weights_of(self, average):
        """The variables of an average by its decay, or the raw weights for None."""
        if average is None:
            return self.network.trainable_variables
        if average not in self._untracked.averages:
            raise ValueError(
                f"average is one of {self.averages} or None, the raw weights. Received: {average}."
            )
        return self._untracked.averages[average]

    @contextlib.contextmanager
    def using_chosen_weights(self):
        """Within, calls of the model use `chosen_weights`."""
        pairs = zip(self.network.trainable_variables, self.chosen_weights, strict=True)
        self._untracked.calls_use = list(pairs)
        try:
            yield
        finally:
            self._untracked.calls_use = None

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
            "float32_derivative": self.float32_derivative,
        }

    @classmethod
    def from_config(cls, config):
        """The model of these arguments."""
        config = dict(config)
        for name in ("network", "objective"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)


class _Field:
    """The network as objectives see it: a callable that also knows the null condition."""

    def __init__(self, flow_map):
        self._flow_map = flow_map
        self.drop = flow_map.network.drop_condition

    def __call__(self, z, r, t, condition=None):
        with self._flow_map.calling():
            return self._flow_map.predict_velocity(z, r, t, condition)

    def velocity(self, z, r, t, condition=None):
        """The second head of a network that has one."""
        with self._flow_map.calling():
            return self._flow_map.network.velocity(z, r, t, condition)


def _all_rows(inputs, name):
    """The array of this name, with the rows of the second output after the first ones."""
    if "second" not in inputs:
        return inputs[name]
    return ops.concatenate([inputs[name], inputs["second"][name]])


def _kind(objective):
    return f"{type(objective).__name__} with {type(objective.loss).__name__}"


def _prediction_and_target(x, y, y_pred):
    """u, and its full target: what is known of it only with u is added without gradient."""
    u, target = y_pred, y["target"]
    if isinstance(y_pred, dict):
        u = y_pred["u"]
        target = target - per_row(x["t"] - x["r"], u) * y_pred["du_dt"]  # Eq. 10
    if "self_share" in y:
        share = per_row(y["self_share"], u)
        target = target + share * ops.stop_gradient(ops.cast(u, "float32"))
    return u, target
