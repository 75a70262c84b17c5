"""What a training is made of, in plain values: two trainings with equal descriptions are equal."""

import gzip
import json
from pathlib import Path

import keras
import numpy as np
from keras import ops

# What a move changes, and names that Keras counts.
_PLACES = {"module", "registered_name", "name", "shared_object_id"}
GOLDEN = Path(__file__).parent / "golden" / "recipes_lock.json.gz"


def read_lock() -> dict:
    """The golden descriptions by the name of an old recipe and its settings."""
    return json.loads(gzip.decompress(GOLDEN.read_bytes()))


def describe_training(training) -> dict:
    """Configuration of model, optimizer and `Training`; sums over the weights; data."""
    flow_map = training.flow_map
    return {
        "flow_map": _plain(flow_map.get_config()),
        "optimizer": _plain(keras.saving.serialize_keras_object(flow_map.optimizer)),
        "training": _training(training),
        "data": _data(training),
        "on_this_backend": {
            "jit_compile": flow_map.jit_compile,
            "network": _sums(flow_map.network),
            "others": [_sums(n) for n in (*flow_map.teachers, flow_map.companion) if n],
        },
    }


def _training(training):
    names = (
        "batch_size steps seed flip log_every sample_every sample_columns checkpoint_seconds "
        "evaluate_every"
    ).split()
    return {
        **{name: getattr(training, name) for name in names},
        "sample_labels": _checksum(training.sample_labels),
        "reference": _checksum(training.reference),
        "sampler": _plain(keras.saving.serialize_keras_object(training.sampler)),
        "codec": training.codec and type(training.codec).__name__,
        "evaluation": training.evaluation and type(training.evaluation).__name__,
    }


def _data(training):
    batch = keras.tree.flatten(training.batches()[0])
    return {
        "type": type(training.data).__name__,
        "rows": len(training.data),
        "batch": [list(array.shape) for array in batch],
        "sum": float(f"{sum(np.abs(array.astype(float)).sum() for array in batch):.3g}"),
    }


def _sums(network):
    """For each weight its shape; of all together a sum over fixed random factors."""
    weights = [ops.convert_to_numpy(weight.value) for weight in network.weights]
    total = 0.0
    for number, weight in enumerate(weights):
        factors = np.random.Generator(np.random.Philox(number)).standard_normal(weight.size)
        total += float(factors @ weight.astype("float64").ravel())
    return {"shapes": [list(weight.shape) for weight in weights], "sum": total}


def _checksum(array):
    if array is None:
        return None
    array = np.asarray(array, "float64")
    places = np.arange(1.0, array.size + 1.0)  # so that an exchange is noticed
    return [list(array.shape), float(f"{array.ravel() @ places:.3g}")]


def _plain(config):
    """A Keras configuration as JSON has it, without the places of classes and counted names."""
    if isinstance(config, dict):
        return {k: _plain(v) for k, v in config.items() if k not in _PLACES}
    if isinstance(config, list | tuple):
        return [_plain(value) for value in config]
    return config if isinstance(config, str | int | float | bool | None) else str(config)
