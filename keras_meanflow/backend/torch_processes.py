"""PyTorch: several processes that train one model, a device each, as `torchrun` starts them."""

import contextlib
import datetime
import functools
import os

import keras
import torch
from torch.nn.parallel import DistributedDataParallel


def join_processes():
    """Join the processes that `torchrun` has started, if it has."""
    if "RANK" not in os.environ or torch.distributed.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    kind = "nccl" if torch.cuda.is_available() else "gloo"
    # The others wait while the first process measures samples or saves.
    torch.distributed.init_process_group(kind, timeout=datetime.timedelta(hours=6))


def _joined():
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_index():
    """The number of this process among those that train together."""
    return torch.distributed.get_rank() if _joined() else 0


def process_count():
    """How many processes train together."""
    return torch.distributed.get_world_size() if _joined() else 1


def wait_for_processes():
    """Go on when every process has come here."""
    if _joined():
        torch.distributed.barrier()


def alone():
    """Within, what is made belongs to this process, as everything does here."""
    return contextlib.nullcontext()


def local(array):
    """An array as it is: each process has its own."""
    return array


@contextlib.contextmanager
def distributed(devices=None, model_devices=1, layout=None):
    """Within, processes train one model together, a device each.

    Args:
        devices: number of devices, which is that of the processes of `torchrun`.
        model_devices: 1: PyTorch divides the batch alone.
        layout: has no use here.

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


def first_row(rows):
    """Global index of this process' first row."""
    return process_index() * rows


def replica_sum(value):
    """The sum of a tensor over processes."""
    if process_count() > 1:
        value = value.clone()
        torch.distributed.all_reduce(value)
    return value


class _Synchronised(torch.nn.Module):
    """A FlowMap's call as DDP takes it: trained weights are its parameters, the model none."""

    def __init__(self, model):
        super().__init__()
        self.call_model = functools.partial(keras.Model.__call__, model)
        for i, variable in enumerate(model.trainable_variables):
            self.register_parameter(str(i), variable.value)

    def forward(self, inputs):
        return self.call_model(inputs)


def synchronised(model):
    """A FlowMap's call through DDP, after all processes have taken the first one's state."""
    for variable in model.variables + model.optimizer.variables:
        torch.distributed.broadcast(variable.value.data, 0)
    return DistributedDataParallel(_Synchronised(model), broadcast_buffers=False)
