"""TensorFlow: forward-mode products, the train and test steps, compiled calls."""

import contextlib
import warnings

import keras
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

from keras_meanflow.backend.recording import recorded_gradients
from keras_meanflow.backend.scopes import differentiating, inside_jvp

__all__ = [
    "Trainer", "alone", "attention", "compiled", "compiled_network", "cond", "constant",
    "device_count", "device_name", "distributed", "eigenvectors", "export_arguments", "first_row",
    "global_norm", "gradient", "join_processes", "jvp", "jvp_with_gradient", "lerp", "local",
    "may_compile", "process_count", "process_index", "rematerialised", "replica_sum", "spread",
    "step_operations", "uncompiled", "untraced", "wait_for_processes",
]  # fmt: skip

_LARGE_FOR_XLA = 128  # the side of a matrix


def jvp(fn, primals, tangents):
    """`fn(*primals)` and its directional derivative along `tangents`.

    `ForwardAccumulator` refuses the same tensor twice, hence the identities, and gives None for
    an output that does not depend on its inputs, hence the zeros.
    """
    primals = [tf.identity(primal) for primal in primals]
    tangents = [tf.cast(t, p.dtype) for t, p in zip(tangents, primals, strict=True)]
    with tf.autodiff.ForwardAccumulator(primals, tangents) as accumulator, differentiating():
        out = fn(*primals)
    return out, accumulator.jvp(out, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def jvp_with_gradient(fn, primals, tangents):
    """As `jvp`; gradients flow through `fn(*primals)`, and none through the derivative."""
    out, tangent = jvp(fn, primals, tangents)
    return out, tf.stop_gradient(tangent)


def attention(q, k, v):
    """Attention of (B, N, heads, size), through the fused kernel where there is one."""
    return keras.ops.dot_product_attention(q, k, v)


def constant(array, like):
    """A NumPy array as a tensor, where `like` is."""
    del like
    return tf.constant(array)


def rematerialised(fn, *args):
    """`fn(*args)`, computed again in the backward pass instead of kept for it.

    `tf.recompute_grad` has no forward mode (tensorflow/tensorflow#43449): not inside a `jvp`.
    """
    return fn(*args) if inside_jvp() else tf.recompute_grad(fn)(*args)


def first_row(rows):
    """Global index of this replica's first row."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group * rows


def replica_sum(value):
    """The sum of a scalar over replicas."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def lerp(targets, sources, amount):
    """Move each target variable by `amount` of the way to its source."""
    for target, source in zip(targets, sources, strict=True):
        target.assign(target.value + amount * (source.value - target.value))


def global_norm(arrays):
    """Euclidean norm of all arrays together; None counts as zero."""
    return tf.linalg.global_norm([tf.convert_to_tensor(a) for a in arrays if a is not None])


def cond(condition, true_fn, false_fn):
    """`true_fn()` or `false_fn()`; only the one that is taken is computed."""
    return keras.ops.cond(condition, true_fn, false_fn)


def eigenvectors(matrix):
    """The eigenvectors of a symmetric matrix, as columns; NaN where none are found.

    XLA has Jacobi's method only: at size 512 on a CPU core 7 s, where TensorFlow's own takes 0.1 s.
    """
    size = matrix.shape[-1]
    if size > _LARGE_FOR_XLA and GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        warnings.warn(
            f"XLA decomposes a {size}x{size} matrix slowly on TensorFlow: use "
            "compile(jit_compile=False).",
            stacklevel=2,
        )
    return tf.linalg.eigh(matrix)[1]


def uncompiled(fn):
    """`fn`, kept out of compiled graphs where these cannot hold it; here they can."""
    return fn


def untraced():
    """Within, operations on known values run at once, also while a step is traced."""
    return tf.init_scope()


def compiled(fn, variables, jit=True):
    """`call(values, *args)`: `fn(*args)` with `variables` at `values`, compiled if `jit`."""

    def call(values, *args):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return fn(*args)

    return tf.function(call, jit_compile=True, reduce_retracing=True) if jit else call


def compiled_network(network):
    """The network as a compiled step calls it: as it is, since the step is compiled whole."""
    return network


def gradient(fn, variables):
    """`call(values, *args)`: the gradient of the scalar `fn(*args)` in `variables` at `values`."""

    def call(values, *args):
        values = [tf.convert_to_tensor(value) for value in values]
        with tf.GradientTape() as tape:
            tape.watch(values)
            with keras.StatelessScope(list(zip(variables, values, strict=True))):
                out = fn(*args)
        return tape.gradient(out, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    return tf.function(call, jit_compile=True, reduce_retracing=True)


def device_count():
    """Devices over which `spread` lays a batch: one, TensorFlow's default."""
    return 1


def device_name():
    """What the device is called, and the kind of its products of float32 numbers."""
    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return "cpu", "float32"
    name = tf.config.experimental.get_device_details(devices[0]).get("device_name", "gpu")
    exact = not tf.config.experimental.tensor_float_32_execution_enabled()
    return name, "float32" if exact else "tf32"


def step_operations(model, data):
    """None: TensorFlow has no count of a compiled step."""
    del model, data


def spread(array):
    """A batch as it is: TensorFlow samples on one device."""
    return array


def export_arguments(format, inputs):
    """What `keras.Model.export` needs here for any batch size: nothing."""
    del format, inputs
    return {}


def may_compile():
    """Whether XLA may compile the step: not over several replicas.

    Under `MirroredStrategy` XLA looks for a replica's variables on another device.
    """
    return tf.distribute.get_strategy().num_replicas_in_sync == 1


def join_processes():
    """TensorFlow trains in one process."""


def process_index():
    """The number of this process among those that train together: one does."""
    return 0


def process_count():
    """How many processes train together: one."""
    return 1


def wait_for_processes():
    """Go on when every process has come here: one has."""


def alone():
    """Within, what is made belongs to this process: there is no other."""
    return contextlib.nullcontext()


def local(array):
    """An array as it is; of a variable that replicas mirror, the first one's."""
    return array.values[0] if isinstance(array, tf.distribute.DistributedValues) else array


@contextlib.contextmanager
def distributed(devices=None, model_devices=1, layout=None):
    """Within, models are made for several devices, and trained on them without XLA.

    Args:
        devices: number of GPUs, all by default; or of parts of the CPU where there are none.
        model_devices: 1: TensorFlow divides the batch alone.
        layout: has no use here.

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


class Trainer:
    """The steps of a FlowMap: build the problem without gradient, hand it to Keras' own step."""

    def train_step(self, data):
        """One optimizer step."""
        problem = self.build_problem(data, training=True)
        with recorded_gradients(self.optimizer, "apply_gradients", position=0) as pairs:
            super().train_step(problem.as_data())
        self.finish_train_step(problem, [gradient for gradient, _ in pairs])
        return self.get_metrics_result()

    def test_step(self, data):
        """One evaluation step, with the chosen average in the weights' place."""
        with self.using_chosen_weights():
            problem = self.build_problem(data, training=False)
            super().test_step(problem.as_data())
        self.finish_test_step(problem)
        return self.test_logs()
