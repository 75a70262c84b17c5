"""Rows of a label table that several samples share: the optimizers see one whole gradient."""

import json

import keras
import numpy as np
import pytest
from golden import adam_with_labels as golden
from keras import layers, ops

from keras_meanflow.optimizers import Adam, SPlus

STORED = json.loads(golden.PATH.read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", golden.CASES)
def test_six_steps_with_labels_are_the_same_on_every_backend(case):
    """On TensorFlow the table was 2 to 3 % off: Keras' Adam squares each repeated row apart."""
    for name, array in golden.weights_after_six_steps(case).items():
        np.testing.assert_allclose(array, STORED[case][name], rtol=0, atol=1e-5)


LABELS = np.array([[0], [1], [1], [1]], "int32")
TABLE = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")


def _step(optimizer):
    """How far a plain Keras model with an Embedding moves in a step, (3, 4)."""
    table = layers.Embedding(3, 4)
    model = keras.Sequential([keras.Input((1,), dtype="int32"), table, layers.Flatten()])
    table.embeddings.assign(TABLE)
    model.compile(optimizer, loss="mse", jit_compile=False)
    model.train_on_batch(LABELS, np.arange(16.0).reshape(4, 4).astype("float32"))
    return ops.convert_to_numpy(table.embeddings) - TABLE


def _adam(g):
    return -0.1 * g / (np.abs(g) + 1e-3)  # Kingma and Ba (arXiv 1412.6980), the first step


def test_adam_of_any_keras_model_sums_repeated_rows_before_it_squares_and_clips():
    g = -_step(keras.optimizers.SGD(1.0))
    arguments = dict(epsilon=1e-3 * np.sqrt(0.001), momentum_dtype="float32")
    np.testing.assert_allclose(_step(Adam(0.1, **arguments)), _adam(g), atol=1e-5)
    clipped = g * 1e-3 / np.linalg.norm(g)
    found = _step(Adam(0.1, global_clipnorm=1e-3, **arguments))
    np.testing.assert_allclose(found, _adam(clipped), atol=1e-5)


def test_splus_clips_the_whole_gradient():
    """After a step the trace of a factor is (1 - b2) |G|^2."""
    optimizer = SPlus(0.1, use_ema=False, nonstandard=(), beta_2=0.9, global_clipnorm=0.5)
    _step(optimizer)
    (factor,) = (v for v in optimizer.variables if v.path.endswith("left_0_factor"))
    trace = np.trace(ops.convert_to_numpy(factor))
    assert trace == pytest.approx(0.1 * 0.5**2, rel=1e-5)
