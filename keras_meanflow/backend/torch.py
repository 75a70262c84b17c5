"""PyTorch: the train and test steps, compiled calls, and what else differs between backends."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from keras_meanflow.backend.scopes import inside_jvp
from keras_meanflow.backend.torch_compiled import CompiledNetwork
from keras_meanflow.backend.torch_forward import jvp, jvp_with_gradient
from keras_meanflow.backend.torch_processes import (
    alone,
    distributed,
    first_row,
    join_processes,
    local,
    process_count,
    process_index,
    replica_sum,
    synchronised,
    wait_for_processes,
)

__all__ = [
    "Trainer", "alone", "attention", "compiled", "compiled_network", "cond", "constant", "dense",
    "device_count", "device_name", "distributed", "eigenvectors", "export_arguments", "first_row",
    "global_norm", "gradient", "join_processes", "jvp", "jvp_with_gradient", "lerp", "local",
    "may_compile", "process_count", "process_index", "rematerialised", "replica_sum", "spread",
    "step_operations", "uncompiled", "untraced", "wait_for_processes",
]  # fmt: skip


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of (B, N, heads, size), through the fused kernel where there is one.

    Keras first asks whether flash attention is possible, which breaks a compiled graph.
    """
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def constant(array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """A NumPy array as a tensor, on the device of `like`.

    Keras' conversion inspects NumPy's types, which breaks a compiled graph in two.
    """
    return torch.from_numpy(array).to(like.device)


def rematerialised(fn: Callable, *args: Any) -> Any:
    """`fn(*args)`, computed again in the backward pass instead of kept in memory.

    Inside a `jvp` nothing is computed again, because dual numbers exist only at their level.
    """
    if inside_jvp() or not torch.is_grad_enabled():
        return fn(*args)
    return checkpoint(fn, *args, use_reentrant=False)


@torch.no_grad()
def lerp(
    targets: Sequence[keras.Variable],
    sources: Sequence[keras.Variable],
    amount: float | torch.Tensor,
) -> None:
    """Move each target variable to its source, by the share `amount` of the difference."""
    targets = [target.value.data for target in targets]
    sources = [s.value.data.to(target.dtype) for s, target in zip(sources, targets, strict=True)]
    moves = torch._foreach_sub(sources, targets)
    torch._foreach_mul_(moves, amount)
    torch._foreach_add_(targets, moves)


def global_norm(arrays: Iterable[torch.Tensor | None]) -> torch.Tensor:
    """Euclidean norm of all arrays together; None counts as zero."""
    return torch.nn.utils.get_total_norm([a.float() for a in arrays if a is not None])


def cond(condition: bool | torch.Tensor, true_fn: Callable, false_fn: Callable) -> Any:
    """`true_fn()` or `false_fn()`; only the chosen one is computed."""
    return keras.ops.cond(condition, true_fn, false_fn)


def eigenvectors(matrix: torch.Tensor) -> torch.Tensor:
    """The eigenvectors of a symmetric matrix, as columns; NaN if the decomposition fails."""
    try:
        return torch.linalg.eigh(matrix)[1]
    except torch.linalg.LinAlgError:
        return torch.full_like(matrix, torch.nan)


def uncompiled(fn: Callable) -> Callable:
    """`fn`, kept out of compiled graphs, because its branches depend on data."""
    return torch.compiler.disable(fn)


def untraced() -> contextlib.AbstractContextManager:
    """An empty context: operations always run at once."""
    return contextlib.nullcontext()


def compiled(fn: Callable, variables: Sequence[keras.Variable], jit: bool = True) -> Callable:
    """`call(values, *args)`: `fn(*args)` with `values` in the `variables`, compiled if `jit`."""
    fn = torch.compile(fn) if jit else fn

    def call(values, *args):
        with (
            torch.no_grad(),
            keras.StatelessScope(list(zip(variables, values, strict=True))),
        ):
            return fn(*args)

    return call


def compiled_network(network: keras.Model) -> Callable:
    """The network for calls in a compiled step: on PyTorch only these calls are compiled."""
    return CompiledNetwork(network)


def gradient(fn: Callable, variables: Sequence[keras.Variable]) -> Callable:
    """`call(values, *args)`: the gradient of the scalar `fn(*args)` in `variables` at `values`."""

    def call(values, *args):
        values = [value.detach().requires_grad_() for value in values]
        with (
            torch.enable_grad(),
            keras.StatelessScope(list(zip(variables, values, strict=True))),
        ):
            out = fn(*args)
        return torch.autograd.grad(out, values, allow_unused=True, materialize_grads=True)

    return call


def dense(gradients: Iterable[Any]) -> list[torch.Tensor | None]:
    """The gradients as whole tensors, which they are here."""
    return list(gradients)


def device_count() -> int:
    """Number of devices over which `spread` divides a batch: one, the device of this process."""
    return 1


def device_name() -> tuple[str, str]:
    """The name of the device, and the precision of its products of float32 numbers."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    exact = torch.get_float32_matmul_precision() == "highest"
    return name, "float32" if exact else "tf32"


def step_operations(model: keras.Model, data: Any) -> float | None:
    """Operations of one training step of this process, as PyTorch counts them.

    They are matrix products, convolutions and attention. The step changes the model.
    """
    data = tree_map(keras.ops.convert_to_tensor, data)
    with FlopCounterMode(display=False) as counter:
        model.train_step(data)
    return counter.get_total_flops()


def spread(array: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
    """The batch unchanged: a PyTorch process has one device."""
    return array


def export_arguments(format: str, inputs: int) -> dict:
    """Arguments of `keras.Model.export` for a free batch size, which PyTorch fixes by default."""
    batch = {0: torch.export.Dim("batch", min=1)}
    return {"dynamic_shapes": [([batch] * inputs,)]} if format == "torch" else {}


def may_compile() -> bool:
    """Whether the step may be compiled: always."""
    return True


class Trainer:
    """The steps of a FlowMap: build the problem without gradient, then call Keras' step on it.

    With `jit_compile` Keras lets dynamo trace the whole step, which breaks into many graphs. So the
    steps are excluded from tracing, and the network's calls in them are compiled instead.
    """

    @torch.compiler.disable
    def train_step(self, data: Any) -> dict:
        """One optimizer step; over several processes the gradient is their mean."""
        self._join()
        self._check(data)
        before = self._metric_values()
        problem = self._problem(data, training=True)
        super().train_step(problem.as_data())
        self._finish(problem)
        self._share_metrics(before)
        return self.get_metrics_result()

    @torch.compiler.disable
    def test_step(self, data: Any) -> dict:
        """One evaluation step, with the chosen average in the place of the weights."""
        self._check(data)
        before = self._metric_values()
        with self.using_chosen_weights():
            problem = self._problem(data, training=False)
            super().test_step(problem.as_data())
        self.finish_test_step(problem)
        self._share_metrics(before)
        return self.test_logs()

    # With several processes, a call of the model with gradient goes through DDP, whose hooks on the
    # weights average the gradients. The problem is built with the network itself, without DDP.

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As in `keras.Model`; through DDP for calls with gradient in several processes."""
        parallel = getattr(getattr(self, "_untracked", None), "parallel", None)
        if parallel is None or not torch.is_grad_enabled():
            return super().__call__(*args, **kwargs)
        return parallel(*args, **kwargs)

    def _check(self, data):
        """Check the values of a batch; on a GPU without waiting for it."""
        leaves = [leaf for leaf in keras.tree.flatten(data) if isinstance(leaf, torch.Tensor)]
        if not any(leaf.is_cuda for leaf in leaves):
            return self.check_batch(data)
        for leaf in leaves:
            if leaf.is_cuda and not leaf.is_floating_point():
                # Keras counts a negative id from the end; one that is too large fails by itself.
                torch._assert_async((leaf >= 0).all(), "Labels must not be negative.")

    def _join(self):
        if process_count() > 1 and not hasattr(self._untracked, "parallel"):
            self._untracked.parallel = synchronised(self)

    def _metric_values(self):
        """The sums that the metrics keep; None in a single process."""
        if process_count() > 1:
            return torch.stack([variable.value.detach() for variable in self.metrics_variables])

    @torch.no_grad()
    def _share_metrics(self, before):
        """Add the changes of the metrics since `before` in the other processes."""
        if before is None:
            return
        after = before + replica_sum(self._metric_values() - before)
        for variable, value in zip(self.metrics_variables, after, strict=True):
            variable.assign(value)

    @torch.no_grad()
    def _problem(self, data, training):
        return self.build_problem(data, training=training)

    @torch.no_grad()
    def _finish(self, problem):
        self.finish_train_step(problem, [v.value.grad for v in self.trainable_variables])
