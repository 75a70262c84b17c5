"""Labels and pixels are checked on every way in: arrays, tensors, streams, validation."""

import gc
import warnings
import weakref

import keras
import numpy as np
import pytest
from keras import ops

from keras_meanflow import DiT, FlowMap, FlowMatching
from keras_meanflow.networks import MLP

X = np.random.default_rng(0).standard_normal((16, 3)).astype("float32")
Y = (np.arange(16) % 3).astype("int32")
BAD = {
    "negative": (Y - 1, r"must lie in 0..2 .*Received: \[-1\]"),
    "too large": (Y + 2, r"must lie in 0..2 .*Received: \[4\]"),
    "a fraction": (Y + np.float32(0.9), "Labels are integers"),
    "a column": (Y[:, None], "Labels are integers"),
    "one-hot": (np.eye(3, dtype="int32")[Y], "Labels are integers"),
}


class Stream(keras.utils.PyDataset):
    """Two batches of 8 rows."""

    def __init__(self, x, y=None):
        super().__init__()
        self.arrays = (x,) if y is None else (x, y)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(array[8 * index : 8 * index + 8] for array in self.arrays)


def _tf_data(*arrays):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays).batch(8)


def _loader(*arrays):
    torch = pytest.importorskip("torch")
    rows = torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays))
    return torch.utils.data.DataLoader(rows, batch_size=8)


def _generator(*batches):
    yield from batches


WAYS = {
    "tensors": lambda f, y: f.fit(*map(ops.convert_to_tensor, (X, y)), batch_size=8, verbose=0),
    "PyDataset": lambda f, y: f.fit(Stream(X, y), verbose=0),
    "tf.data": lambda f, y: f.fit(_tf_data(X, y), shuffle=False, verbose=0),
    "DataLoader": lambda f, y: f.fit(_loader(X, y), shuffle=False, verbose=0),
    "generator": lambda f, y: f.fit(_generator((X, y)), shuffle=False, verbose=0),
    "validation": lambda f, y: f.fit(X, Y, batch_size=8, validation_data=(X, y), verbose=0),
    "evaluate": lambda f, y: f.evaluate(X, y, verbose=0),
    "evaluate a stream": lambda f, y: f.evaluate(Stream(X, y), verbose=0),
    "one batch": lambda f, y: f.train_on_batch(X, y),
}


def _model(num_classes=3):
    flow_map = FlowMap(MLP(data_size=3, width=4, depth=1, num_classes=num_classes), FlowMatching())
    flow_map.compile("sgd", jit_compile=False)
    return flow_map


def _weights(flow_map):
    return [ops.convert_to_numpy(w) for w in flow_map.network.trainable_variables]


@pytest.mark.parametrize("way", WAYS)
def test_wrong_labels_are_refused_on_every_way_in_and_leave_the_model_whole(way):
    flow_map = _model()
    before = _weights(flow_map)
    names = BAD if way == "PyDataset" else ("negative", "too large", "one-hot")
    for y, message in map(BAD.get, names):
        with pytest.raises(ValueError, match=message):
            WAYS[way](flow_map, y)
    for a, b in zip(before, _weights(flow_map), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_compiled_step_refuses_labels_out_of_range():
    flow_map = _model()
    flow_map.compile("sgd")
    for y, message in (BAD["negative"], BAD["too large"]):
        with pytest.raises(ValueError, match=message):
            flow_map.fit(Stream(X, y), verbose=0)
    flow_map.fit(Stream(X, Y), verbose=0)


def test_missing_and_superfluous_labels_are_named():
    with pytest.raises(ValueError, match="needs labels"):
        _model().fit(Stream(X), verbose=0)
    with pytest.raises(ValueError, match="unconditional"):
        _model(None).fit(Stream(X, Y), verbose=0)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "validation"])
def test_labels_that_count_from_one_are_warned_of(way):
    with pytest.warns(UserWarning, match=r"lie in 1..3: there is no 0.*pass y - 1"):
        WAYS[way](_model(), Y + 1)


def test_a_batch_needs_a_label_for_each_row():
    with pytest.raises(ValueError, match="one row per sample"):
        _model().fit(_generator((X, Y[:1])), shuffle=False, verbose=0)


def test_a_dict_data_set_is_no_pair():
    tf = pytest.importorskip("tensorflow")
    rows = {"image": X, "label": Y}
    stream = tf.data.Dataset.from_tensor_slices(rows).batch(8)
    for data in (rows, stream):
        with pytest.raises(ValueError, match=r"Received a dict of image, label: pass tuples"):
            _model().fit(data, shuffle=False, verbose=0)


def test_the_null_label_of_small_integers_is_the_null_label():
    network = MLP(data_size=3, width=4, depth=1, num_classes=256)
    labels = ops.convert_to_tensor(np.arange(4, dtype="uint8"))
    dropped = network.drop_condition(labels, ops.convert_to_tensor(np.arange(4) % 2 == 0))
    assert ops.convert_to_numpy(dropped).tolist() == [256, 1, 256, 3]


def test_images_in_another_range_are_warned_of_with_the_line_that_mends_it():
    network = DiT(image_size=4, channels=1, patch_size=2, width=4, depth=1, heads=1)
    flow_map = FlowMap(network, FlowMatching())
    flow_map.compile("sgd", jit_compile=False)

    def warned(data, line):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            flow_map.evaluate(data, batch_size=8 if data is x else None, verbose=0)
        return [line in str(w.message) for w in caught].count(True)

    for white, line in ((1.0, "x = x / 0.5 - 1"), (255.0, "x = x / 127.5 - 1")):
        x = np.random.default_rng(0).uniform(0, white, (16, 4, 4, 1)).astype("float32")
        x[0, 0, 0, 0] = white
        assert [warned(x, line), warned(Stream(x), line)] == [1, 1]
        x = eval(line.removeprefix("x = "), {"x": x})
        assert [warned(x, "images are expected"), warned(Stream(x), "images are expected")] == [
            0,
            0,
        ]


def test_the_check_of_batches_does_not_keep_a_model_that_is_not_used_any_more():
    flow_map = FlowMap(MLP(data_size=2, width=4, depth=1), FlowMatching())
    flow_map.compile("sgd", jit_compile=False)
    flow_map.fit(np.zeros((8, 2), "float32"), batch_size=4, verbose=0)
    kept = weakref.ref(flow_map)
    del flow_map
    gc.collect()
    assert kept() is None
