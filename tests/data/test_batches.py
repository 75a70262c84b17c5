"""The stream of batches: a pure function of (seed, step), through Keras' `fit` as well."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow.data import ArraySource, Batches

N, ROWS = 10, 4


def stream(**settings):
    """Ten numbered items, four in a batch."""
    numbers = np.arange(N, dtype="float32")[:, None]
    return Batches(ArraySource(numbers, np.arange(N)), ROWS, **{"seed": 0, **settings})


def rows(batches, steps):
    return np.concatenate([batches[i][1] for i in range(steps)])


def test_every_item_comes_once_an_epoch_and_every_batch_is_full():
    seen = rows(stream(), 5).reshape(2, N)  # 5 batches of 4 are 2 epochs of 10
    np.testing.assert_array_equal(np.sort(seen), np.tile(np.arange(N), (2, 1)))
    assert not np.array_equal(seen[0], seen[1])


def test_the_order_of_an_epoch_is_philox_of_seed_and_epoch():
    orders = [
        np.random.Generator(np.random.Philox(key=np.array([3, e], "uint64"))).permutation(N)
        for e in range(2)
    ]
    np.testing.assert_array_equal(rows(stream(seed=3), 5), np.concatenate(orders))


def test_a_batch_may_be_larger_than_the_data():
    source = ArraySource(np.zeros((3, 1)), np.arange(3))
    assert np.bincount(Batches(source, 12, seed=1)[5][1]).tolist() == [4, 4, 4]


def test_a_batch_depends_on_seed_and_step_alone():
    forwards, backwards = stream(), stream()
    expected = [forwards[i][1] for i in range(20)]
    for i in reversed(range(20)):
        np.testing.assert_array_equal(backwards[i][1], expected[i])
    assert not np.array_equal(rows(stream(seed=1), 5), np.concatenate(expected[:5]))


def test_a_stream_continues_where_another_stopped():
    whole = stream()
    for i, step in enumerate(range(7, 27)):
        np.testing.assert_array_equal(stream(first_step=7)[i][1], whole[step][1])


def test_half_the_images_are_flipped_by_seed_and_step():
    images = np.random.default_rng(0).uniform(-1, 1, (64, 2, 3, 1)).astype("float32")
    source = ArraySource(images, np.arange(64))
    flipped, plain = Batches(source, 64, 5, flip=True), Batches(source, 64, 5)
    counts = []
    for step in range(20):
        x, x0 = flipped[step][0], plain[step][0]
        mirrored = (x != x0).any((1, 2, 3))
        np.testing.assert_array_equal(x[mirrored], x0[mirrored][:, :, ::-1])
        np.testing.assert_array_equal(flipped[step][0], x)
        counts.append(int(mirrored.sum()))
    assert abs(sum(counts) - 640) < 4 * np.sqrt(1280) / 2 and len(set(counts)) > 3


def test_without_labels_a_batch_is_x_alone():
    assert len(Batches(ArraySource(np.zeros((5, 2))), 2, seed=0)[0]) == 1


class Witness(keras.layers.Layer):
    """Records the mean of every training batch, in the order of arrival."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False)
        self.means = self.add_weight(shape=(40,), initializer="zeros", trainable=False)
        self.scale = self.add_weight(shape=())

    def call(self, x, training=False):
        if training:
            here = ops.equal(ops.arange(40), ops.convert_to_tensor(self.count))
            self.means.assign(ops.where(here, ops.mean(x), ops.convert_to_tensor(self.means)))
            self.count.assign_add(1)
        return x * self.scale


def witnessed(batches, epochs, calls=1, shuffle=False, **fit):
    layer = Witness()
    model = keras.Sequential([layer])
    model.compile("sgd", "mse")
    for _ in range(calls):
        model.fit(batches, steps_per_epoch=5, epochs=epochs, verbose=0, shuffle=shuffle, **fit)
    return ops.convert_to_numpy(layer.means)[: int(ops.convert_to_numpy(layer.count))]


def means(steps):
    whole = stream()
    return np.array([whole[i][0].mean() for i in steps])


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")  # it has no effect: the law here
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("first_step", [0, 7])
def test_fit_sees_every_step_once_and_in_order(first_step, shuffle):
    seen = witnessed(stream(first_step=first_step), 3, shuffle=shuffle)
    np.testing.assert_allclose(seen, means(range(first_step, first_step + 15)), rtol=1e-6)


def test_fit_sees_every_step_in_order_with_validation_between_the_epochs():
    validation = np.zeros((4, 1), "float32")
    seen = witnessed(stream(), 3, validation_data=(validation, validation))
    np.testing.assert_allclose(seen, means(range(15)), rtol=1e-6)


def test_each_fit_starts_at_first_step():
    seen = witnessed(stream(), 1, calls=2)
    np.testing.assert_allclose(seen, means([*range(5), *range(5)]), rtol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(batch_size=0), "batch_size must be at least 1. Received 0"),
        (dict(first_step=-1), "first_step must be at least 0. Received -1"),
        (dict(seed=-1), "seed must be from 0"),
        (dict(flip=True), "flip needs images"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Batches(**{"source": ArraySource(np.zeros((5, 2))), "batch_size": 2, "seed": 0, **settings})


def test_the_parts_of_several_processes_are_the_batch_of_one():
    source = ArraySource(np.arange(60.0).reshape(10, 2, 3, 1), np.arange(10))
    whole = Batches(source, 6, seed=3, flip=True)
    parts = [Batches(source, 6, seed=3, flip=True, part=(p, 3)) for p in range(3)]
    for step in range(4):
        for i, array in enumerate(whole[step]):
            np.testing.assert_array_equal(np.concatenate([p[step][i] for p in parts]), array)
    with pytest.raises(ValueError, match="equal parts. Received: part 0 of 4 of batch_size 6"):
        Batches(source, 6, seed=0, part=(0, 4))
