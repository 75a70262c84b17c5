"""JAX: forward-mode derivatives, compiled calls, devices and processes."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils

from keras_meanflow.backend.jax_trainer import Trainer
from keras_meanflow.backend.scopes import differentiating, inside_jvp

__all__ = [
    "Trainer", "alone", "attention", "compiled", "compiled_network", "cond", "constant", "dense",
    "device_count", "device_name", "distributed", "eigenvectors", "export_arguments", "first_row",
    "global_norm", "gradient", "join_processes", "jvp", "jvp_with_gradient", "lerp", "local",
    "may_compile", "process_count", "process_index", "rematerialised", "replica_sum", "spread",
    "step_operations", "uncompiled", "untraced", "wait_for_processes",
]  # fmt: skip


def jvp(
    fn: Callable, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """`fn(*primals)` and its directional derivative along `tangents`."""
    with differentiating():
        return jax.jvp(fn, tuple(primals), tuple(tangents))


def jvp_with_gradient(
    fn: Callable, primals: Sequence[jax.Array], tangents: Sequence[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """As `jvp`; gradients flow through `fn(*primals)`, but not through the derivative."""
    out, tangent = jvp(fn, primals, tangents)
    return out, jax.lax.stop_gradient(tangent)


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Attention of (B, N, heads, size), through the fused kernel where a GPU has one.

    The fused kernel is a custom_vjp, which rejects forward mode (jax-ml/jax#32430). On a TPU Keras'
    kernel masks the future if no mask is given, so it is not used there.
    """
    wanted = keras.config.is_flash_attention_enabled() is not False
    may = wanted and jax.default_backend() == "gpu" and not inside_jvp()
    return keras.ops.dot_product_attention(q, k, v, flash_attention=None if may else False)


def constant(array: np.ndarray, like: jax.Array) -> jax.Array:
    """A NumPy array as a tensor, on the device of `like`."""
    del like
    return jax.numpy.asarray(array)


def rematerialised(fn: Callable, *args: Any) -> Any:
    """`fn(*args)`, computed again in the backward pass instead of kept in memory."""
    return jax.checkpoint(fn)(*args)


def first_row(rows: int) -> int:
    """Global index of this replica's first row: JAX programs see the global batch."""
    del rows
    return 0


def replica_sum(value: jax.Array) -> jax.Array:
    """The sum of a scalar over replicas: JAX programs see the global batch already."""
    return value


def lerp(
    targets: Sequence[keras.Variable], sources: Sequence[keras.Variable], amount: float | jax.Array
) -> None:
    """Move each target variable to its source, by the share `amount` of the difference."""
    for target, source in zip(targets, sources, strict=True):
        target.assign(target.value + amount * (source.value - target.value))


def global_norm(arrays: Iterable[jax.Array | None]) -> jax.Array:
    """Euclidean norm of all arrays together; None counts as zero."""
    return jax.numpy.sqrt(
        sum(jax.numpy.sum(a.astype("float32") ** 2) for a in arrays if a is not None)
    )


def cond(condition: bool | jax.Array, true_fn: Callable, false_fn: Callable) -> Any:
    """`true_fn()` or `false_fn()`; only the chosen one is computed.

    Outside `jax.jit` the choice is Python's: `jax.lax.cond` would compile both at every call.
    """
    if isinstance(condition, jax.core.Tracer):
        return jax.lax.cond(condition, true_fn, false_fn)
    return true_fn() if condition else false_fn()


def eigenvectors(matrix: jax.Array) -> jax.Array:
    """The eigenvectors of a symmetric matrix, as columns; NaN if the decomposition fails."""
    return jax.numpy.linalg.eigh(matrix)[1]


def uncompiled(fn: Callable) -> Callable:
    """`fn`, kept out of compiled graphs that cannot contain it; here they can."""
    return fn


def untraced() -> contextlib.AbstractContextManager:
    """Context in which operations on known values run at once, even while a step is traced."""
    return jax.ensure_compile_time_eval()


def compiled(fn: Callable, variables: Sequence[keras.Variable], jit: bool = True) -> Callable:
    """`call(values, *args)`: `fn(*args)` with `values` in the `variables`, compiled if `jit`."""

    def call(values, *args):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return fn(*args)

    return jax.jit(call) if jit else call


def compiled_network(network: keras.Model) -> Callable:
    """The network for calls in a compiled step: unchanged, because the whole step is compiled."""
    return network


def gradient(fn: Callable, variables: Sequence[keras.Variable]) -> Callable:
    """`call(values, *args)`: the gradient of the scalar `fn(*args)` in `variables` at `values`."""
    return jax.jit(jax.grad(compiled(fn, variables, jit=False)))


def dense(gradients: Iterable[Any]) -> list[jax.Array | None]:
    """The gradients as whole tensors, which they are here."""
    return list(gradients)


def device_count() -> int:
    """Number of devices over which `spread` divides a batch: all devices of this process."""
    return jax.local_device_count()


def device_name() -> tuple[str, str]:
    """The name of the device, and the precision of its products of float32 numbers."""
    return jax.devices()[0].device_kind, "tf32"


def step_state(model: keras.Model) -> tuple[list[jax.Array], ...]:
    """The state that the train step of a compiled model takes and returns."""
    model.optimizer.build(model.trainable_variables)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    return tuple([variable.value for variable in group] for group in groups)


def step_operations(model: keras.Model, data: Any) -> float | None:
    """Operations of a training step on all devices, as XLA counts them before optimisation."""
    return jax.jit(model.train_step).lower(step_state(model), data).cost_analysis()["flops"]


def spread(array: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """A batch divided over all devices of this process, with its rows in order."""
    if jax.local_device_count() == 1:
        return array
    return jax.device_put(array, _over_local_devices("batch"))


def _over_local_devices(*axes):
    """The sharding with the first axis divided over this process' devices, or replicated."""
    mesh = jax.sharding.Mesh(jax.local_devices(), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def export_arguments(format: str, inputs: int) -> dict:
    """Arguments of `keras.Model.export` for a free batch size: none are needed here."""
    del format, inputs
    return {}


def may_compile() -> bool:
    """Whether the step may be compiled: always."""
    return True


def join_processes() -> None:
    """Join the processes in `KERAS_DISTRIBUTION_JOB_ADDRESSES`, if it is set."""
    if "KERAS_DISTRIBUTION_JOB_ADDRESSES" in os.environ:
        keras.distribution.initialize()


def process_index() -> int:
    """The index of this process among the processes that train together."""
    return jax.process_index()


def process_count() -> int:
    """How many processes train together."""
    return jax.process_count()


def wait_for_processes() -> None:
    """Wait until every process has reached this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("keras_meanflow")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Context for saving from one process only: new variables are not compared across processes.

    Under a distribution, a new variable is first compared across all processes. When Keras saves an
    optimizer it creates another one: a process that saves alone would wait for ever.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def local(array: jax.Array) -> jax.Array:
    """This process' copy of an array that all processes hold, on each device of the process."""
    if array.is_fully_addressable:
        return array
    return jax.device_put(array.addressable_data(0), _over_local_devices())


@contextlib.contextmanager
def distributed(
    devices: int | None = None,
    model_devices: int = 1,
    layout: dict[str, tuple[str | None, ...]] | None = None,
) -> Iterator[None]:
    """Context in which models are built for several devices, and trained on them.

    Args:
        devices: number of devices of all processes together; all by default.
        model_devices: number of devices over which the weights of a model are divided.
        layout: regular expression of a variable's path -> mesh axes ("model" or None) of its axes.

    Raises:
        ValueError: for more devices than there are, a number that is not a multiple of
            `model_devices`, or weights divided over processes: no process could save them.
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
