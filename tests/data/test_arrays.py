"""Digits, arrays and `.npz` files: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from keras_meanflow.data import ArraySource, load_arrays, load_digits, open_source

PIXELS = np.arange(4 * 6 * 6, dtype="uint8").reshape(4, 6, 6)
FLOATS = np.linspace(-1, 1, PIXELS.size, dtype="float32").reshape(4, 6, 6, 1)


@pytest.fixture
def npz(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "images.npz", **arrays)
        return tmp_path / "images.npz"

    return save


def with_nan():
    x = FLOATS.copy()
    x[2, 3, 4, 0] = np.nan
    x[3, 0, 0, 0] = np.inf
    return x


def test_the_digits_are_the_test_set_of_uci():
    x, y = load_digits()
    assert (x.shape, x.dtype, y.dtype) == ((1797, 8, 8, 1), np.float32, np.int32)
    assert (x.min(), x.max()) == (-1, 1)
    # The counts of each digit and the first image, as UCI's optdigits.tes and its .names give them.
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    first_rows = [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    np.testing.assert_array_equal((x[0, :2, :, 0] + 1) * 8, first_rows)
    assert y[:10].tolist() == list(range(10))


def test_the_halves_of_the_digits_are_every_other_one():
    x, y = load_digits()
    for split, first, count in (("train", 0, 899), ("test", 1, 898)):
        half, labels = load_digits(split)
        assert len(half) == count
        np.testing.assert_array_equal(half, x[first::2])
        np.testing.assert_array_equal(labels, y[first::2])
    with pytest.raises(ValueError, match="split is one of all, train, test. Received: 'valid'"):
        load_digits("valid")


def test_8_bit_pixels_become_minus_one_to_one(npz):
    x, y = load_arrays(npz(x=np.array([[[0, 51, 255]]], "uint8")))
    np.testing.assert_allclose(x, [[[[-1], [-0.6], [1]]]], atol=1e-7)
    assert x.dtype == np.float32 and y is None


def test_floats_and_splits_are_kept_as_they_are(npz):
    path = npz(x_train=PIXELS, y_train=np.arange(4), x_test=FLOATS, y_test=[[3], [2], [1], [0]])
    x, y = load_arrays(path, "test")
    np.testing.assert_array_equal(x, FLOATS)
    assert y.tolist() == [3, 2, 1, 0] and y.dtype == np.int32
    assert load_arrays(path)[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "arrays, message",
    [
        (dict(x=with_nan()), r"Received 2 NaN .* the first at index \(2, 3, 4, 0\)"),
        (dict(x=PIXELS[0]), r"must have the shape .*Received \(6, 6\)"),
        (dict(x=PIXELS.astype("int64")), "must be uint8 .*Received int64"),
        (dict(x=PIXELS.astype("float32")), "must be scaled .* from 0 to 143"),
        (dict(x=PIXELS[:0]), "at least one item"),
        (dict(x=PIXELS, y=np.arange(3)), r"y of .*one entry per item: 4. Received 3"),
        (dict(x=PIXELS, y=np.arange(4) / 2), "must be integers.*Received float64"),
        (dict(x=PIXELS, y=np.arange(4) - 1), "0 and up. Received -1"),
        (dict(x=PIXELS, y=np.eye(4, dtype=int)), r"one label per image.*Received \(4, 4\)"),
        (dict(images=PIXELS, labels=np.arange(4)), "hold x_train or x. It holds images, labels"),
        (dict(x=np.array([[[None]]])), "must be an .npz file of arrays"),
    ],
)
def test_bad_arrays_are_refused_with_what_is_wrong(npz, arrays, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_arrays(npz(**arrays))
    assert "\n" not in str(caught.value)


def test_the_training_images_are_not_used_for_a_missing_test_split(npz):
    with pytest.raises(ValueError, match="must hold x_test. It holds x, y"):
        load_arrays(npz(x=PIXELS, y=np.arange(4)), "test")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_broken_npz_is_refused_by_name(tmp_path, content):
    (tmp_path / "broken.npz").write_bytes(content)
    with pytest.raises(ValueError, match="broken.npz must be an .npz file"):
        load_arrays(tmp_path / "broken.npz")


def test_an_array_source_takes_any_rows_in_any_order():
    source = ArraySource(PIXELS[..., None], [5, 6, 7, 8])
    x, y = source.take([3, 0, 3])
    np.testing.assert_allclose(x, PIXELS[[3, 0, 3], ..., None] / 127.5 - 1, atol=1e-6)
    assert y.tolist() == [8, 5, 8]
    assert (len(source), source.shape, source.num_classes) == (4, (6, 6, 1), 9)
    assert source.x.dtype == np.uint8, "8-bit pixels must stay small in memory"


def test_a_condition_may_be_an_array():
    vectors = np.ones((4, 3))
    source = ArraySource(FLOATS, vectors)
    assert source.num_classes is None and source.take([1])[1].dtype == np.float32
    with pytest.raises(ValueError, match="one entry per item: 4. Received 3"):
        ArraySource(FLOATS, vectors[:3])


def test_a_condition_may_be_one_number_for_each_item_or_a_dict_with_such_numbers():
    angles = np.array([0.0, 90.0, 180.0, 270.0])
    source = ArraySource(FLOATS, {"labels": np.arange(4), "angle": angles})
    y = source.take([3, 1])[1]
    assert y["angle"].tolist() == [270.0, 90.0] and y["angle"].dtype == np.float32
    assert source.num_classes == 4
    alone = ArraySource(FLOATS, angles)
    assert alone.num_classes is None and alone.take([1])[1].tolist() == [90.0]


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.parquet", "x.npz", "x"])
def test_files_of_other_kinds_are_refused_with_what_is_read(name, tmp_path):
    np.save(tmp_path / "a.npy", FLOATS)
    for content in ((tmp_path / "a.npy").read_bytes(), b"\x89HDF\r\n\x1a\n", b"PAR1", b""):
        (tmp_path / name).write_bytes(content)
        kind = Path(name).suffix if Path(name).suffix not in ("", ".npz") else "no archive"
        with pytest.raises(ValueError) as caught:
            open_source(tmp_path / name)
        message = str(caught.value)
        assert "must be an .npz file of arrays x and y" in message and "\n" not in message
        assert ("an empty file" if not content else kind) in message


def test_data_sets_of_other_libraries_are_refused_with_what_is_expected():
    with pytest.raises(ValueError, match="Received: dict of image, label. Pass NumPy arrays"):
        open_source({"image": FLOATS, "label": np.arange(4)})
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="Received: TensorDataset. Pass NumPy arrays"):
        open_source(torch.utils.data.TensorDataset(torch.zeros(4, 1)))
    assert len(open_source(torch.zeros(4, 8, 8))) == 4


def test_a_source_opens_from_files_and_from_arrays(npz):
    path = npz(x=PIXELS, y=np.arange(4))
    opened = [open_source(d, 6, 1) for d in (path, str(path), (PIXELS, np.arange(4)), PIXELS)]
    for source in opened:
        np.testing.assert_array_equal(source.take([1, 2])[0], opened[0].take([1, 2])[0])
    assert opened[-1].take([1])[1] is None
    assert open_source(opened[0]) is opened[0]


@pytest.mark.parametrize(
    "data, settings, message",
    [
        (PIXELS, dict(image_size=8), "must be 8 pixels square. Received 6 x 6"),
        (PIXELS, dict(channels=3), "must have 3 channels. Received 1"),
        ("nowhere.npz", {}, "There is none at nowhere.npz"),
        (3, {}, "Received int"),
        ((PIXELS, np.arange(4), 1), {}, "Received tuple"),
    ],
)
def test_other_data_are_refused(data, settings, message):
    with pytest.raises(ValueError, match=message):
        open_source(data, **settings)


def test_mnist_and_eurosat_open(shared_data):
    mnist = open_source(shared_data / "mnist.npz", 28, 1)
    assert (len(mnist), mnist.num_classes) == (60000, 10)
    x, y = load_arrays(shared_data / "eurosat32.npz", "test")
    with np.load(shared_data / "eurosat32.npz") as raw:
        np.testing.assert_array_equal(np.round((x + 1) * 127.5), raw["x_test"])
        np.testing.assert_array_equal(y, raw["y_test"])
