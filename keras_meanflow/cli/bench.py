"""`keras-meanflow bench`."""

import math
import resource
import statistics
import sys
import time

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    devices_option,
    distribution_option,
    several_devices,
    start,
)
from keras_meanflow.cli.errors import one_line_errors, traceback_option
from keras_meanflow.cli.options import Number
from keras_meanflow.cli.peaks import peak_of
from keras_meanflow.cli.plans import open_plan, plan_options


@click.command()
@plan_options
@click.option(
    "--steps",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Training steps per round.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Measured rounds, after one to compile.",
)
@click.option(
    "--samples", type=click.IntRange(1), default=256, show_default=True, help="Samples per round."
)
@click.option(
    "--peak", type=Number(0, min_open=True), help="Peak of a device, in 1e12 operations per second."
)
@devices_option
@distribution_option
@backend_option
@traceback_option
def bench(
    task, method, size, settings, steps, rounds, samples, peak, devices, distribution, backend
):
    """Measure the speed and the memory of training and sampling. No file is written.

    TASK is a name, or your file.py or file.py:function, as for `train`. Each round trains and then
    samples; the times are medians over the rounds. On JAX and PyTorch the operations of a training
    step are counted too, and compared with the peak of the device if it is known.
    """
    with one_line_errors():
        plan, settings, _ = open_plan(task, method, size, settings)
        start(choose_backend(backend))
        with several_devices(devices, distribution):
            _bench(plan.training(settings), steps, rounds, samples, peak)


def _bench(training, steps, rounds, samples, peak):
    import numpy as np

    from keras_meanflow.backend import BACKEND

    flow_map = training.flow_map
    batches = training.batches()
    labels = samples
    if flow_map.network.conditional:
        labels = np.resize(np.asarray(training.sample_labels), samples)
    work = {
        "train": lambda: flow_map.fit(batches, steps_per_epoch=steps, shuffle=False, verbose=0),
        "sample": lambda: flow_map.generate(labels, sampler=training.sampler, verbose=0),
    }
    seconds = {name: [] for name in work}
    for _ in range(rounds + 1):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    step, drawn = (statistics.median(seconds[name][1:]) for name in ("train", "sample"))
    click.echo(f"{BACKEND}, {flow_map.network.count_params():,} parameters")
    rate = steps * training.batch_size / step
    click.echo(f"training  {1000 * step / steps:10.2f} ms a step  {rate:10.1f} images a second")
    drawn_rate = samples / drawn
    click.echo(f"sampling  {1000 / drawn_rate:10.2f} ms an image {drawn_rate:9.1f} images a second")
    click.echo(_operations(flow_map, batches, step / steps, peak))
    click.echo(f"memory    {_peak_memory() / 1e9:10.2f} GB, the peak of this process")


def _operations(flow_map, batches, seconds, peak):
    """The line about the operations of a training step that takes this time."""
    import keras

    from keras_meanflow.backend import device_name, step_operations

    counted = step_operations(flow_map, batches[0])
    if counted is None:
        return "operations        not counted on this backend"
    device, products = device_name()
    if flow_map.network.compute_dtype == "bfloat16":
        products = "bfloat16"
    per_second = counted / seconds / 1e12
    line = f"operations{counted / 1e9:10.2f} G a step {per_second:13.3f} T a second"
    peak = peak_of(device, products) if peak is None else peak
    if peak is None:
        return f"{line}, of {device}, whose peak is unknown (--peak)"
    distribution = keras.distribution.distribution()
    devices = 1 if distribution is None else math.prod(distribution.device_mesh.shape)
    whole = f"{devices} times {peak:g}" if devices > 1 else f"{peak:g}"
    return f"{line}, {100 * per_second / peak / devices:.1f} % of {whole} ({device}, {products})"


def _peak_memory():
    """Bytes; Linux counts in kilobytes, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
