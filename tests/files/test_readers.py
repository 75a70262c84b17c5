"""The readers against torch.load, and against files that ask for more than tensors."""

import argparse
import collections
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from golden import metrics_weights

from keras_meanflow.files.pickles import interpret
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.safetensors import CHECKSUM, read_metadata, read_safetensors
from keras_meanflow.files.torch_files import read_torch
from keras_meanflow.files.writers import write_weights


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch writes the files that are read here")


def checkpoint(torch):
    base = torch.arange(24, dtype=torch.float32)
    linear = torch.nn.Linear(3, 2)
    return {
        "model": linear.state_dict(),
        "parameter": linear.weight,
        "turned": base.reshape(4, 6).T,
        "slice": base.reshape(4, 6)[1:3, ::2],
        "expanded": base[:1].expand(5),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "brain": (base / 7).bfloat16(),
        "long": torch.tensor([-1, 2**40]),
        "bool": torch.tensor([True, False]),
        "nested": [1, 2.5, None, True, "text", (base.to(torch.uint8), {7: -(2**70)})],
        "args": argparse.Namespace(lr=1e-4, layers=[1, 2]),
        "size": base.shape,
        "dtype": torch.float16,
    }


def assert_same(torch, ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert ours.shape == tuple(theirs.shape)
        if theirs.dtype == torch.bfloat16:
            theirs = theirs.float()
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(ours, theirs.detach().numpy())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            assert_same(torch, ours[key], theirs[key])
    elif isinstance(theirs, argparse.Namespace):
        assert ours == vars(theirs)
    elif isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(torch, a, b)
    elif isinstance(theirs, torch.dtype):
        assert f"torch.{ours}" == str(theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saved_is_read_as_torch_reads_it(torch, tmp_path, zipped, protocol):
    path = tmp_path / "checkpoint.pt"
    torch.save(
        checkpoint(torch), path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol
    )
    theirs = torch.load(path, weights_only=False)
    assert_same(torch, read_weights(path), theirs)


def test_a_real_state_dict_is_read_as_torch_reads_it(torch, shared_data):
    path = shared_data / "lenet_mnist_fid.pth"
    assert_same(torch, read_torch(path), torch.load(path, weights_only=True))


def test_arrays_do_not_share_memory(torch, tmp_path):
    tied = torch.ones(3)
    torch.save({"a": tied, "b": tied}, tmp_path / "tied.pt")
    state = read_torch(tmp_path / "tied.pt")
    state["a"][0] = 7
    assert state["b"][0] == 1


class RunsCode:
    def __reduce__(self):
        return os.system, ("echo this must never run",)


class ReadsFile:
    def __reduce__(self):
        return open, ("/etc/hostname",)


def torch_zip(path, pickled):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


def refused(message):
    return pytest.raises(ValueError, match=message)


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize(
    "thing, name", [(RunsCode(), r"(posix|nt)\.system"), (ReadsFile(), "open")]
)
def test_a_pickle_that_calls_is_refused_by_name(tmp_path, protocol, thing, name):
    path = torch_zip(tmp_path / "bad.pt", pickle.dumps({"a": thing}, protocol=protocol))
    with refused(f"bad.pt.*{name}.*could run code"):
        read_torch(path)


@pytest.mark.parametrize(
    "thing", [np.float64(1.0), collections.Counter("ab"), {1, 2}, argparse.ArgumentParser]
)
def test_a_pickle_of_other_objects_is_refused(tmp_path, thing):
    path = torch_zip(tmp_path / "bad.pt", pickle.dumps(thing, protocol=4))
    with refused("bad.pt cannot be read"):
        read_torch(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_containers_are_read_in_every_protocol(protocol):
    value = {"a": [1, -2, 2.5, None, "x"], "b": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))}
    assert interpret(io.BytesIO(pickle.dumps(value, protocol=protocol))) == value


@pytest.mark.parametrize("body", [b".", b"h\x05.", b"K\x01K\x01R.", b"", b"K\x01}s."])
def test_a_malformed_pickle_is_refused(body):
    with refused("ickle"):
        interpret(io.BytesIO(b"\x80\x02" + body))


def test_a_tensor_outside_its_storage_is_refused(tmp_path):
    tensor = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\n"
        b"U\x010U\x03cpuK\x04tQK\x00K\x09\x85K\x01\x85\x89NtR."
    )
    path = torch_zip(tmp_path / "bad.pt", tensor)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data/0", np.zeros(4, "f4").tobytes())
    with refused(r"inside its storage.*has 4 numbers.*\(9,\)"):
        read_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.95])
def test_a_truncated_file_is_refused(torch, tmp_path, zipped, kept):
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    state = {"a": torch.ones(300), "b": torch.ones(300)}
    torch.save(state, whole, _use_new_zipfile_serialization=zipped)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(kept * len(data))])
    with refused("cut.pt"):
        read_weights(cut)


def test_a_missing_storage_is_named(torch, tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
        pickled = next(whole.read(n) for n in whole.namelist() if n.endswith("data.pkl"))
    with refused("truncated or damaged.*archive/data/0"):
        read_torch(torch_zip(tmp_path / "cut.pt", pickled))


@pytest.mark.parametrize("data", [b"not a torch file", pickle.dumps({"a": 1}, protocol=2)])
def test_another_file_is_refused(tmp_path, data):
    path = tmp_path / "other.pt"
    path.write_bytes(data)
    with refused("other.pt"):
        read_torch(path)


def test_another_zip_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    with refused("no data.pkl"):
        read_torch(tmp_path / "other.zip")


def safetensors_file(path, entries, data):
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def test_safetensors_are_read_by_their_specification(tmp_path):
    floats, brain = np.arange(6, dtype="<f4"), np.array([0x3F80, 0xC020], "<u2")  # 1, -2.5
    entries = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [2], "data_offsets": [24, 28]},
        "c": {"dtype": "BOOL", "shape": [], "data_offsets": [28, 29]},
    }
    data = floats.tobytes() + brain.tobytes() + b"\x01"
    state = read_weights(safetensors_file(tmp_path / "a.safetensors", entries, data))
    assert list(state) == ["a", "b", "c"] and state["c"].item() is True
    np.testing.assert_array_equal(state["a"], floats.reshape(2, 3))
    np.testing.assert_array_equal(state["b"], [1, -2.5])
    with refused("truncated.*'b' needs bytes 24 to 28 of 25"):
        read_safetensors(safetensors_file(tmp_path / "b.safetensors", entries, data[:25]))
    entries["a"]["dtype"] = "F4"
    with refused("'a' has dtype F4"):
        read_safetensors(safetensors_file(tmp_path / "c.safetensors", entries, data))


def test_a_safetensors_header_longer_than_the_file_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 1000) + b"{}")
    with refused("header says 1000 bytes"):
        read_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_files_that_torch_and_safetensors_wrote_are_read_without_them(suffix):
    path = Path(__file__).parents[1] / "golden" / f"metrics_weights.{suffix}"
    found, expected = read_weights(path), metrics_weights.state()
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_reading_imports_no_torch():
    path = Path(__file__).parents[1] / "golden" / "metrics_weights.pt"
    code = (
        "import sys; from keras_meanflow.files.readers import read_weights\n"
        f"read_weights({str(path)!r}); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("False"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "entries",
    [
        {"a": None},
        {"a": {"dtype": "F32"}},
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}},
        {"__metadata__": [1]},
        {"__metadata__": {"keras_meanflow": {}}},
        {"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}},  # 4 bytes are left
    ],
)
def test_a_safetensors_header_of_wrong_structure_is_refused_in_one_line(tmp_path, entries):
    path = safetensors_file(tmp_path / "bad.safetensors", entries, b"\0" * 4)
    with refused("bad.safetensors.*") as caught:
        read_weights(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b'{"a": ', b"{" * 9, b'{"a":' + b"[" * 10**5])
def test_a_safetensors_header_that_is_no_json_is_refused(tmp_path, text):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    for read in (read_weights, read_metadata):
        with refused("bad.safetensors cannot be read"):
            read(path)


def test_our_safetensors_carry_a_checksum_of_every_byte(tmp_path):
    path = tmp_path / "a.safetensors"
    write_weights(path, {"a": np.arange(3, dtype="float32")}, metadata={"keras_meanflow": "{}"})
    data = path.read_bytes()
    np.testing.assert_array_equal(read_weights(path)["a"], [0, 1, 2])
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        if read_metadata_or_none(path) is not None:
            with refused("a.safetensors"):
                read_weights(path)
    path.write_bytes(data + b"\0")
    with refused("a.safetensors is damaged"):
        read_weights(path)


def read_metadata_or_none(path):
    """The checksum in a file's metadata, unless the change hit its name or the header itself."""
    try:
        return read_metadata(path).get(CHECKSUM)
    except ValueError:
        return None


BILLION = b"]q\x00K\x01a" + b"".join(
    bytes([*b"]q", n, *(b"h%ca" % (n - 1) * 10)]) for n in range(1, 20)
)  # each list holds the one before ten times


@pytest.mark.parametrize(
    "pickled, message",
    [
        (b"\x80\x02" + BILLION + b".", "holds more than 1,000,000 values"),
        (b"\x80\x02]q\x00h\x00a.", "cannot be read"),  # a list in itself
        (b"\x80\x02" + b"\x85" * 10, "cannot be read"),
        (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "cannot be read"),
        (b"\x80\x02" + b"N0" * 2**24 + b"N.", "its pickle is longer than the file"),
    ],
)
def test_a_pickle_that_expands_is_refused_soon(tmp_path, pickled, message):
    with zipfile.ZipFile(tmp_path / "bad.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
    with refused(f"bad.pt.*{message}"):
        read_weights(tmp_path / "bad.pt")


def test_a_tensor_that_repeats_one_number_is_limited_by_the_files_size(torch, tmp_path):
    torch.save({"a": torch.ones(1).expand(2**30)}, tmp_path / "bad.pt")
    with refused("bad.pt cannot be read. Its tensors would take 4,294,967,296 bytes"):
        read_weights(tmp_path / "bad.pt")


def test_an_npz_that_expands_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("a.npy", "w") as member:
            for _ in range(300):
                member.write(b"\0" * 2**20)
    with refused("bad.npz of .* bytes would become 314,572,800"):
        read_weights(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\xa1a" + b"\x91" * 10**5,
        b"\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x81\x90\x01",
        b"\x81\xa1\xff",
    ],
)
def test_a_msgpack_of_wrong_structure_is_refused(tmp_path, data):
    (tmp_path / "bad.msgpack").write_bytes(data)
    with refused("bad.msgpack"):
        read_weights(tmp_path / "bad.msgpack")


@pytest.mark.parametrize(
    "text, kind",
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "pointer of Git LFS",
        ),
        ("\n<!DOCTYPE html><html><head><title>Sign in</title>", "an HTML page"),
        ("<HTML>\n", "an HTML page"),
        ('{"metadata": {}, "weight_map": {"a": "model-00001.safetensors"}}', "in several files"),
    ],
)
def test_what_one_meets_in_the_place_of_weights_is_named(tmp_path, text, kind):
    for name in ("a.pt", "a.safetensors"):
        (tmp_path / name).write_text(text)
        with refused(f"{name} cannot be read. .*{kind}"):
            read_weights(tmp_path / name)
