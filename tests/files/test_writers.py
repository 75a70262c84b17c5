"""The usual libraries read the written files; truncated and odd files are refused."""

from pathlib import Path

import numpy as np
import pytest
from golden import weights_flax

from keras_meanflow.files.msgpack import pack, unpack
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.safetensors import CHECKSUM, read_metadata
from keras_meanflow.files.writers import write_weights

FLAX = Path(__file__).parents[1] / "golden" / "weights_flax.msgpack"
STATE = {
    "a.weight": np.arange(6, dtype="float32").reshape(2, 3),
    "a.bias": np.array([-1.5], "float16"),
    "scalar": np.array(2.5, "float64"),
}


def assert_same(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def refused(message):
    return pytest.raises(ValueError, match=message)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".msgpack", ".pt", ".pth"])
def test_what_is_written_is_read_back(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_weights(path, STATE, wrapping=())
    assert_same(read_weights(path), STATE)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    for kept in (0.3, 0.8):
        path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
        with refused(path.name):
            read_weights(path)


def test_torch_reads_what_is_written_and_runs_no_pickle_for_it(tmp_path):
    torch = pytest.importorskip("torch", reason="torch reads the file that is written here")
    write_weights(tmp_path / "a.pt", STATE)
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)
    assert_same({name: tensor.numpy() for name, tensor in theirs.items()}, STATE)


def test_flax_packs_a_tree_into_the_same_bytes():
    assert_same(read_weights(FLAX), weights_flax.tree())
    assert pack(weights_flax.tree()) == FLAX.read_bytes()


def test_an_orbax_checkpoint_is_read(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint", reason="orbax writes the folder read here")
    tree = {"params": {"net": {"kernel": np.ones((2, 3), "float32")}}}
    orbax.PyTreeCheckpointer().save(tmp_path / "run" / "checkpoint_3", tree)
    found = read_weights(tmp_path / "run")
    assert_same(found, tree)
    assert isinstance(found["params"]["net"]["kernel"], np.ndarray)  # for any number of devices


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    with refused(r"a folder, but not of orbax: it holds \['a.txt', 'b.txt'\]"):
        read_weights(tmp_path)


def test_an_npz_that_hides_a_pickle_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.array([{"a": 1}], dtype=object))
    with refused("a.npz cannot be read. Object arrays"):
        read_weights(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FLAX.read_bytes() + b"\x00", "goes on for 1 bytes"),
        (b"\x81\xa1a\xc1", "byte 0xc1"),
        (b"\x81\xa1a\xd4\x05\x00", "extension 5 is no array"),
        (b"\x81\xa1a\xcd\x00", "ends early"),
    ],
)
def test_a_damaged_flax_file_is_refused(tmp_path, data, message):
    (tmp_path / "checkpoint_0").write_bytes(data)
    with refused(f"checkpoint_0 is truncated or damaged: .*{message}"):
        read_weights(tmp_path / "checkpoint_0")


def test_bfloat16_of_flax_becomes_float32():
    data = pack(((2,), "bfloat16", np.array([0x3F80, 0xC020], "<u2").tobytes()))
    packed = b"\x81\xa1a\xc7" + bytes([len(data), 1]) + data
    np.testing.assert_array_equal(unpack(packed)["a"], np.array([1, -2.5], "float32"))


def test_the_text_of_a_header_is_read(tmp_path):
    write_weights(tmp_path / "a.safetensors", STATE, metadata={"about": "a network"})
    write_weights(tmp_path / "a.pt", STATE)
    found = read_metadata(tmp_path / "a.safetensors")
    assert found.pop(CHECKSUM) and found == {"about": "a network"}
    assert read_metadata(tmp_path / "a.pt") == read_metadata(tmp_path) == {}
