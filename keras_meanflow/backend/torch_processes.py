"""PyTorch: several processes that train one model, one device each, started by `torchrun`."""

import contextlib
import datetime
import functools
import os
from collections.abc import Iterator
from typing import Any

import keras
import torch
from torch.nn.parallel import DistributedDataParallel


def join_processes() -> None:
    """Join the processes of `torchrun`, if it started this one."""
    if "RANK" not in os.environ or torch.distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    kind = "nccl" if torch.cuda.is_available() else "gloo"
    # The others wait while the first process measures samples or saves.
    torch.distributed.init_process_group(kind, timeout=datetime.timedelta(hours=6))


def _joined():
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_index() -> int:
    """The index of this process among the processes that train together."""
    return torch.distributed.get_rank() if _joined() else 0


def process_count() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if _joined() else 1


def wait_for_processes() -> None:
    """Wait until every process has reached this call."""
    if _joined():
        torch.distributed.barrier()


def alone() -> contextlib.AbstractContextManager:
    """An empty context: on PyTorch new variables always belong to one process."""
    return contextlib.nullcontext()


def local(array: Any) -> Any:
    """The array unchanged: each process has a separate array."""
    return array


@contextlib.contextmanager
def distributed(
    devices: int | None = None,
    model_devices: int = 1,
    layout: dict[str, tuple[str | None, ...]] | None = None,
) -> Iterator[None]:
    """Context in which processes train one model together, one device each.

    Args:
        devices: number of devices; it equals the number of processes of `torchrun`.
        model_devices: 1: PyTorch divides only the batch.
        layout: not used here.

    Raises:
        ValueError: for another number of devices, or model_devices above 1.
    """
    del layout
    if model_devices != 1:
        raise ValueError("On PyTorch devices divide the batch: --distribution data. Use JAX.")
    if devices not in (None, process_count()):
        raise ValueError(
            "On PyTorch each device has a process: torchrun --nproc-per-node "
            f"{devices} -m keras_meanflow.cli train ... Received: {process_count()} processes."
        )
    yield


def first_row(rows: int) -> int:
    """Global index of this process' first row."""
    return process_index() * rows


def replica_sum(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over processes."""
    if process_count() > 1:
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


class _Synchronised(torch.nn.Module):
    """A FlowMap's call as a module for DDP, whose only parameters are the trained weights."""

    def __init__(self, model):
        super().__init__()
        self.call_model = functools.partial(keras.Model.__call__, model)
        for i, variable in enumerate(model.trainable_variables):
            self.register_parameter(str(i), variable.value)

    def forward(self, inputs: Any, **kwargs: Any) -> Any:
        return self.call_model(inputs, **kwargs)


def synchronised(model: keras.Model) -> DistributedDataParallel:
    """A FlowMap's call through DDP, after the first process has sent its state to all others."""
    for variable in model.variables + model.optimizer.variables:
        torch.distributed.broadcast(variable.value.data, 0)
    return DistributedDataParallel(_Synchronised(model), broadcast_buffers=False)
