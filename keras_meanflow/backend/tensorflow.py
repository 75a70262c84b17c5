"""TensorFlow: forward-mode derivatives, the train and test steps, compiled calls."""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_meanflow.backend.scopes import differentiating, inside_jvp
from keras_meanflow.backend.tensorflow_trainer import Trainer, dense

__all__ = [
    "Trainer", "alone", "attention", "compiled", "compiled_network", "cond", "constant", "dense",
    "device_count", "device_name", "distributed", "eigenvectors", "export_arguments", "first_row",
    "global_norm", "gradient", "join_processes", "jvp", "jvp_with_gradient", "lerp", "local",
    "may_compile", "process_count", "process_index", "rematerialised", "replica_sum", "spread",
    "step_operations", "uncompiled", "untraced", "wait_for_processes",
]  # fmt: skip

_LARGE_FOR_XLA = 128  # the side of a matrix


def jvp(
    fn: Callable, primals: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """`fn(*primals)` and its directional derivative along `tangents`.

    `ForwardAccumulator` refuses the same tensor twice: hence the identities. It gives None for an
    output that does not depend on its inputs: hence the zeros.
    """
    primals = [tf.identity(primal) for primal in primals]
    tangents = [tf.cast(t, p.dtype) for t, p in zip(tangents, primals, strict=True)]
    with tf.autodiff.ForwardAccumulator(primals, tangents) as accumulator, differentiating():
        out = fn(*primals)
    return out, accumulator.jvp(out, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def jvp_with_gradient(
    fn: Callable, primals: Sequence[tf.Tensor], tangents: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """As `jvp`; gradients flow through `fn(*primals)`, but not through the derivative."""
    out, tangent = jvp(fn, primals, tangents)
    return out, tf.stop_gradient(tangent)


def attention(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """Attention of (B, N, heads, size), through the fused kernel where there is one."""
    return keras.ops.dot_product_attention(q, k, v)


def constant(array: np.ndarray, like: tf.Tensor) -> tf.Tensor:
    """A NumPy array as a tensor, on the device of `like`."""
    del like
    return tf.constant(array)


def rematerialised(fn: Callable, *args: Any) -> Any:
    """`fn(*args)`, computed again in the backward pass instead of kept in memory.

    Inside a `jvp` it does not apply: `tf.recompute_grad` has no forward mode
    (tensorflow/tensorflow#43449).
    """
    return fn(*args) if inside_jvp() else tf.recompute_grad(fn)(*args)


def first_row(rows: int | tf.Tensor) -> int | tf.Tensor:
    """Global index of this replica's first row."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group * rows


def replica_sum(value: tf.Tensor) -> tf.Tensor:
    """The sum of a scalar over replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def lerp(
    targets: Sequence[keras.Variable], sources: Sequence[keras.Variable], amount: float | tf.Tensor
) -> None:
    """Move each target variable to its source, by the share `amount` of the difference."""
    for target, source in zip(targets, sources, strict=True):
        source = tf.cast(source.value, target.dtype)
        target.assign(target.value + amount * (source - target.value))


def global_norm(arrays: Iterable[tf.Tensor | None]) -> tf.Tensor:
    """Euclidean norm of all arrays together; None counts as zero."""
    return tf.linalg.global_norm([tf.cast(a, "float32") for a in arrays if a is not None])


def cond(condition: bool | tf.Tensor, true_fn: Callable, false_fn: Callable) -> Any:
    """`true_fn()` or `false_fn()`; only the chosen one is computed."""
    return keras.ops.cond(condition, true_fn, false_fn)


def eigenvectors(matrix: tf.Tensor) -> tf.Tensor:
    """The eigenvectors of a symmetric matrix, as columns; NaN if the decomposition fails.

    XLA has only Jacobi's method: at size 512 on one CPU core it takes 7 s, TensorFlow's 0.1 s.
    """
    size = matrix.shape[-1]
    if size > _LARGE_FOR_XLA and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        warnings.warn(
            f"XLA decomposes a {size}x{size} matrix slowly on TensorFlow: use "
            "compile(jit_compile=False).",
            stacklevel=2,
        )
    return tf.linalg.eigh(matrix)[1]


def uncompiled(fn: Callable) -> Callable:
    """`fn`, kept out of compiled graphs that cannot contain it; here they can."""
    return fn


def untraced() -> contextlib.AbstractContextManager:
    """Context in which operations on known values run at once, even while a step is traced."""
    return tf.init_scope()


def compiled(fn: Callable, variables: Sequence[keras.Variable], jit: bool = True) -> Callable:
    """`call(values, *args)`: `fn(*args)` with `values` in the `variables`, compiled if `jit`."""

    def call(values, *args):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return fn(*args)

    return tf.function(call, jit_compile=True, reduce_retracing=True) if jit else call


def compiled_network(network: keras.Model) -> Callable:
    """The network for calls in a compiled step: unchanged, because the whole step is compiled."""
    return network


def gradient(fn: Callable, variables: Sequence[keras.Variable]) -> Callable:
    """`call(values, *args)`: the gradient of the scalar `fn(*args)` in `variables` at `values`."""

    def call(values, *args):
        values = [tf.convert_to_tensor(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(values)
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                out = fn(*args)
        zero = tf.UnconnectedGradients.ZERO
        return dense(tape.gradient(out, values, unconnected_gradients=zero))

    return tf.function(call, jit_compile=True, reduce_retracing=True)


def device_count() -> int:
    """Number of devices over which `spread` divides a batch: one, TensorFlow's default device."""
    return 1


def device_name() -> tuple[str, str]:
    """The name of the device, and the precision of its products of float32 numbers."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return "cpu", "float32"
    name = tf.config.experimental.get_device_details(devices[0]).get("device_name", "gpu")
    exact = not tf.config.experimental.tensor_float_32_execution_enabled()
    return name, "float32" if exact else "tf32"


def step_operations(model: keras.Model, data: Any) -> float | None:
    """None: TensorFlow cannot count the operations of a compiled step."""
    del model, data
    return None


def spread(array: np.ndarray | tf.Tensor) -> np.ndarray | tf.Tensor:
    """The batch unchanged: TensorFlow samples on one device."""
    return array


def export_arguments(format: str, inputs: int) -> dict:
    """Arguments of `keras.Model.export` for a free batch size: none are needed here."""
    del format, inputs
    return {}


def may_compile() -> bool:
    """Whether XLA may compile the step: only without replicas.

    Under `MirroredStrategy` XLA looks for a replica's variables on the wrong device.
    """
    return tf.distribute.get_strategy().num_replicas_in_sync == 1


def join_processes() -> None:
    """Do nothing: TensorFlow trains in one process."""


def process_index() -> int:
    """The index of this process among the processes that train together: only one does."""
    return 0


def process_count() -> int:
    """How many processes train together: one."""
    return 1


def wait_for_processes() -> None:
    """Do nothing: there is no other process to wait for."""


def alone() -> contextlib.AbstractContextManager:
    """An empty context: there is no other process."""
    return contextlib.nullcontext()


def local(array: Any) -> Any:
    """The array unchanged; for a variable mirrored on replicas, the array of the first one."""
    return array.values[0] if isinstance(array, tf.distribute.DistributedValues) else array


@contextlib.contextmanager
def distributed(
    devices: int | None = None,
    model_devices: int = 1,
    layout: dict[str, tuple[str | None, ...]] | None = None,
) -> Iterator[None]:
    """Context in which models are built for several devices, and trained on them without XLA.

    Args:
        devices: number of GPUs, all by default; without GPUs, the number of parts of the CPU.
        model_devices: 1: TensorFlow divides only the batch.
        layout: not used here.

    Raises:
        ValueError: for more devices than there are, or model_devices above 1.
    """
    del layout
    if model_devices != 1:
        raise ValueError("On TensorFlow devices divide the batch: --distribution data. Use JAX.")
    gpus = tf.config.list_logical_devices("GPU") if tf.config.list_physical_devices("GPU") else []
    if gpus and (devices or 1) > len(gpus):
        raise ValueError(f"devices is at most {len(gpus)}, the GPUs here. Received: {devices}.")
    devices = devices or max(len(gpus), 1)
    if not gpus and devices > 1:
        cpu, parts = tf.config.list_physical_devices("CPU")[0], devices
        logical = [tf.config.LogicalDeviceConfiguration()] * parts
        tf.config.set_logical_device_configuration(cpu, logical)
    kind = "GPU" if gpus else "CPU"
    with tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(devices)]).scope():
        yield
