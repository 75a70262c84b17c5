"""A method: the objective of one paper, and what else the paper changes in a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_meanflow.data import open_source
from keras_meanflow.flow_map import FlowMap, open_model, place_of
from keras_meanflow.formats.conversion import load_network
from keras_meanflow.formats.fine_tuning import add_interval
from keras_meanflow.networks import Network
from keras_meanflow.objectives import Guidance, Objective
from keras_meanflow.parts import (
    AdaptiveLoss,
    CentralDifference,
    ClippedDerivative,
    Derivative,
    ForwardMode,
    ScaledCentralDifference,
    SquaredError,
)
from keras_meanflow.samplers import Sampler
from keras_meanflow.training.task import Task, given
from keras_meanflow.training.training import Training

DERIVATIVES = {
    "exact": ForwardMode(),
    "central": CentralDifference(),
    "clipped": ClippedDerivative(derivative=ScaledCentralDifference()),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """The objective for a task, and what else the method changes.

    Args:
        objective: the objective, or a function that makes it from the network.
        network: makes the network; None for the task's network.
        data: replaces the task's data; None keeps it.
        sampler: draws the pictures of samples; default one jump.
        global_clipnorm: largest norm of the gradient; None keeps the optimizer of the task.

    Example:
        >>> Method(MeanFlow(times=task.law(0.75), **task.noise))
    """

    objective: Objective | Callable[[Network], Objective]
    network: Callable[[], Network] | None = None
    data: Any = None
    sampler: Sampler | None = None
    global_clipnorm: float | None = None


def compose(task: Task, method: Method) -> Training:
    """The `Training` of a task by a method. The data is opened before the network is built.

    Example:
        >>> training = compose(digits(steps=100), mean_flow(digits(steps=100)))
    """
    data = method.data
    if data is None:
        data = task.data() if callable(task.data) else task.data
    data = open_source(data)
    keras.utils.set_random_seed(task.seed)
    network = (method.network or task.network)()
    objective = method.objective
    if not isinstance(objective, Objective):
        objective = objective(network)
    flow_map = FlowMap(
        network, objective, averages=task.averages, horizon=task.steps, seed=task.seed
    )
    flow_map.compile(**task.compile)
    if method.global_clipnorm is not None:
        flow_map.optimizer.global_clipnorm = method.global_clipnorm
    shared = _shared(task)
    if method.data is not None:
        shared["flip"] = False  # a mirrored sample is not the end of the line from its noise
    return Training(flow_map=flow_map, data=data, sampler=method.sampler, **shared)


def _shared(task):
    """The fields that a `Task` and a `Training` have in common."""
    shared = {f.name for f in dataclasses.fields(Task)} & {
        f.name for f in dataclasses.fields(Training)
    }
    return {name: getattr(task, name) for name in shared - {"data"}}


# Knobs that several methods share.


def loss_of(power: float, floor: float) -> keras.losses.Loss:
    """`AdaptiveLoss(p=power, c=floor)`; with power 0 it is the squared error."""
    return AdaptiveLoss(p=power, c=floor) if power else SquaredError()


def guidance_of(omega: float, kappa: float, end: float) -> Guidance | None:
    """Guidance in the target; None for omega = 1 and kappa = 0, which change nothing."""
    return Guidance(omega=omega, kappa=kappa, end=end) if (omega, kappa) != (1.0, 0.0) else None


def derivative_of(name: str) -> Derivative:
    """The `Derivative` that computes du/dt, by name: "exact", "central" or "clipped".

    Raises:
        ValueError: for another name.
    """
    if name not in DERIVATIVES:
        raise ValueError(f"derivative is one of {', '.join(DERIVATIVES)}. Received: {name!r}.")
    return DERIVATIVES[name]


def network_of(path: str | None, knob: str, **settings: Any) -> Network:
    """The averaged network of a run or preset, or the network of a file of weights.

    Args:
        path: a run's folder, a preset, or a file that `load_network` reads.
        knob: the knob with this path, for the error message.
        **settings: arguments of `load_network`, for a file of weights.

    Raises:
        ValueError: for None; the message says what to give.
    """
    name = given(path, knob, "the run of an earlier training, or a file of weights")
    place = place_of(name)
    return load_network(name, **settings) if place.kind == "weights" else open_model(name).network()


def with_interval(network: Network) -> Network:
    """A flow model with an input t - r added; a network that has this input is unchanged."""
    inputs = getattr(getattr(network, "network", network), "time_inputs", None)
    return add_interval(network) if inputs in (("t",), ("1-t",)) else network


def copy_of(network: Network) -> Network:
    """A second network of the same class and configuration, with the same weights."""
    copy = type(network).from_config(network.get_config())
    for target, source in zip(copy.weights, network.weights, strict=True):
        target.assign(ops.copy(source.value))  # JAX donates buffers: never share one
    return copy
