"""JAX: forward-mode products, the train and test steps, compiled calls."""

import contextlib
import os

import jax
import keras
from jax.experimental import multihost_utils

from keras_meanflow.backend.recording import recorded_gradients
from keras_meanflow.backend.scopes import differentiating, inside_jvp

__all__ = [
    "Trainer", "alone", "attention", "compiled", "compiled_network", "cond", "constant",
    "device_count", "device_name", "distributed", "eigenvectors", "export_arguments", "first_row",
    "global_norm", "gradient", "join_processes", "jvp", "jvp_with_gradient", "lerp", "local",
    "may_compile", "process_count", "process_index", "rematerialised", "replica_sum", "spread",
    "step_operations", "uncompiled", "untraced", "wait_for_processes",
]  # fmt: skip


def jvp(fn, primals, tangents):
    """`fn(*primals)` and its directional derivative along `tangents`."""
    with differentiating():
        return jax.jvp(fn, tuple(primals), tuple(tangents))


def jvp_with_gradient(fn, primals, tangents):
    """As `jvp`; gradients flow through `fn(*primals)`, and none through the derivative."""
    out, tangent = jvp(fn, primals, tangents)
    return out, jax.lax.stop_gradient(tangent)


def attention(q, k, v):
    """Attention of (B, N, heads, size), through the fused kernel where a GPU has one.

    That is a custom_vjp, which rejects forward mode (jax-ml/jax#32430). On a TPU Keras' kernel
    masks the future where no mask is given.
    """
    wanted = keras.config.is_flash_attention_enabled() is not False
    may = wanted and jax.default_backend() == "gpu" and not inside_jvp()
    return keras.ops.dot_product_attention(q, k, v, flash_attention=None if may else False)


def constant(array, like):
    """A NumPy array as a tensor, where `like` is."""
    del like
    return jax.numpy.asarray(array)


def rematerialised(fn, *args):
    """`fn(*args)`, computed again in the backward pass instead of kept for it."""
    return jax.checkpoint(fn)(*args)


def first_row(rows):
    """Global index of this replica's first row: JAX programs see the global batch."""
    del rows
    return 0


def replica_sum(value):
    """The sum of a scalar over replicas: JAX programs see the global batch already."""
    return value


def lerp(targets, sources, amount):
    """Move each target variable by `amount` of the way to its source."""
    for target, source in zip(targets, sources, strict=True):
        target.assign(target.value + amount * (source.value - target.value))


def global_norm(arrays):
    """Euclidean norm of all arrays together; None counts as zero."""
    return jax.numpy.sqrt(
        sum(jax.numpy.sum(a.astype("float32") ** 2) for a in arrays if a is not None)
    )


def cond(condition, true_fn, false_fn):
    """`true_fn()` or `false_fn()`; only the one that is taken is computed.

    Outside `jax.jit` the choice is Python's: `jax.lax.cond` would compile both at every call.
    """
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, true_fn, false_fn)
    return true_fn() if condition else false_fn()


def eigenvectors(matrix):
    """The eigenvectors of a symmetric matrix, as columns; NaN where none are found."""
    return jax.numpy.linalg.eigh(matrix)[1]


def uncompiled(fn):
    """`fn`, kept out of compiled graphs where these cannot hold it; here they can."""
    return fn


def untraced():
    """Within, operations on known values run at once, also while a step is traced."""
    return jax.ensure_compile_time_eval()


def compiled(fn, variables, jit=True):
    """`call(values, *args)`: `fn(*args)` with `variables` at `values`, compiled if `jit`."""

    def call(values, *args):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return fn(*args)

    return jax.jit(call) if jit else call


def compiled_network(network):
    """The network as a compiled step calls it: as it is, since the step is compiled whole."""
    return network


def gradient(fn, variables):
    """`call(values, *args)`: the gradient of the scalar `fn(*args)` in `variables` at `values`."""
    return jax.jit(jax.grad(compiled(fn, variables, jit=False)))


def device_count():
    """Devices over which `spread` lays a batch: all of this process."""
    return jax.local_device_count()


def device_name():
    """What the device is called, and the kind of its products of float32 numbers."""
    return jax.devices()[0].device_kind, "tf32"


def step_state(model):
    """What the train step of a compiled model takes and returns."""
    model.optimizer.build(model.trainable_variables)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return tuple([variable.value for variable in group] for group in groups)


def step_operations(model, data):
    """Operations of a training step, by XLA's analysis of the program before it is optimised.

    Of all devices together.
    """
    return jax.jit(model.train_step).lower(step_state(model), data).cost_analysis()["flops"]


def spread(array):
    """A batch laid over all devices of this process, rows in order."""
    if jax.local_device_count() == 1:
        return array
    return jax.device_put(array, _over_local_devices("batch"))


def _over_local_devices(*axes):
    """The sharding whose first axis is divided among this process' devices, or none."""
    mesh = jax.sharding.Mesh(jax.local_devices(), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def export_arguments(format, inputs):
    """What `keras.Model.export` needs here for any batch size: nothing."""
    del format, inputs
    return {}


def may_compile():
    """Whether the step may be compiled: always."""
    return True


def join_processes():
    """Join the processes that `KERAS_DISTRIBUTION_JOB_ADDRESSES` names, if it is set."""
    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        keras.distribution.initialize()


def process_index():
    """The number of this process among those that train together."""
    return jax.process_index()


def process_count():
    """How many processes train together."""
    return jax.process_count()


def wait_for_processes():
    """Go on when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("keras_meanflow")


@contextlib.contextmanager
def alone():
    """Within, what is made belongs to this process and waits for no other.

    A variable that is made under a distribution is compared over all processes first, and Keras
    makes an optimizer of its own when it saves one: a process that saves alone would wait for ever.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def local(array):
    """This process' copy of an array that all processes hold, on each of its devices."""
    if array.is_fully_addressable:
        return array
    return jax.device_put(array.addressable_data(0), _over_local_devices())


@contextlib.contextmanager
def distributed(devices=None, model_devices=1, layout=None):
    """Within, models are made for several devices, and trained on them.

    Args:
        devices: number of devices, of all processes together; all by default.
        model_devices: number of devices among which the weights of a model are divided.
        layout: regular expression of a variable's path -> mesh axes ("model" or None) of its axes.

    Raises:
        ValueError: for more devices than there are, no multiple of `model_devices`, or weights
            that no process would have whole, so that none could save them.
    """
    if model_devices != 1 and jax.process_count() > 1:
        raise ValueError("Over several processes devices divide the batch: --distribution data.")
    names = keras.distribution.list_devices()
    devices = len(names) if devices is None else devices
    if not 0 < devices <= len(names) or devices % model_devices:
        raise ValueError(
            f"devices is at most {len(names)}, the devices of JAX here (more on a CPU by XLA_FLAGS="
            f"--xla_force_host_platform_device_count=N), and a multiple of {model_devices}. "
            f"Received: {devices}."
        )
    shape = (devices // model_devices, model_devices)
    mesh = keras.distribution.DeviceMesh(shape, ("batch", "model"), names[:devices])
    map_ = keras.distribution.LayoutMap(mesh)
    for path, axes in (layout or {}).items():
        map_[path] = axes
    keras.distribution.set_distribution(
        keras.distribution.ModelParallel(
            layout_map=map_, batch_dim_name="batch", auto_shard_dataset=False
        )
    )
    try:
        yield
    finally:
        keras.distribution.set_distribution(None)


class Trainer:
    """The steps of a FlowMap: build the problem without gradient, hand it to Keras' own step."""

    def train_step(self, state, data):
        """One optimizer step; `state` holds trainable, other, optimizer and metric values."""
        trainable, other, _, _ = state
        with keras.StatelessScope(self._mapping(trainable, other)):
            problem = self.build_problem(data, training=True)
        with recorded_gradients(self.optimizer, "stateless_apply", position=1) as gradients:
            _, state = super().train_step(state, problem.as_data())
        trainable, other, optimizer, metrics = state

        def finish():
            self.finish_train_step(problem, gradients)
            return self.get_metrics_result()

        logs, other, metrics = self._finish(finish, trainable, other, metrics)
        return logs, (trainable, other, optimizer, metrics)

    @property
    def test_step(self):
        """One evaluation step; a new function each time, since `jax.jit` knows methods again."""
        return lambda state, data: self._test_step(state, data)

    def _test_step(self, state, data):
        """With the chosen average in the weights' place."""
        trainable, other, metrics = state
        scope = self._mapping(trainable, other)
        weights = dict((id(variable), value) for variable, value in scope)
        pairs = zip(self.network.trainable_variables, self.chosen_weights, strict=True)
        chosen = {id(raw): weights[id(used)] for raw, used in pairs}
        evaluated = [chosen.get(id(v), weights[id(v)]) for v in self.trainable_variables]
        with keras.StatelessScope(self._mapping(evaluated, other)):
            problem = self.build_problem(data, training=False)
        _, (_, other, metrics) = super().test_step((evaluated, other, metrics), problem.as_data())

        def finish():
            self.finish_test_step(problem)
            return self.test_logs()

        logs, other, metrics = self._finish(finish, trainable, other, metrics)
        return logs, (trainable, other, metrics)

    def _mapping(self, trainable, other):
        variables = self.trainable_variables + self.non_trainable_variables
        return list(zip(variables, [*trainable, *other], strict=True))

    def _finish(self, step, trainable, other, metrics):
        """Run the stateful end of a step; returns its logs, other variables and metric values."""
        mapping = self._mapping(trainable, other)
        mapping += zip(self.metrics_variables, metrics, strict=True)
        with keras.StatelessScope(mapping) as scope:
            logs = step()
        other = [scope.get_current_value(v) for v in self.non_trainable_variables]
        metrics = [scope.get_current_value(v) for v in self.metrics_variables]
        return logs, other, metrics
