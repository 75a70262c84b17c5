"""Stores from others: names of shards stay in the folder, and a damaged index is one line."""

import json
import shutil

import numpy as np
import pytest

from keras_meanflow.codecs import Identity
from keras_meanflow.data import ArraySource
from keras_meanflow.data.encoding import encode
from keras_meanflow.data.latents import LatentStore


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "store"
    x = np.random.default_rng(0).standard_normal((6, 4, 4, 3)).astype("f4")
    encode(ArraySource(x, np.arange(6) % 3), folder, Identity(3), shard_size=4)
    return folder


@pytest.fixture
def store(made, tmp_path):
    """Writes the store's index with changes, without its checksum as a version 0.1.0 wrote it."""
    folder = tmp_path / "store"
    shutil.copytree(made, folder)
    shutil.copy(folder / "shard-00000.npy", tmp_path / "outside.npy")

    def changed(keep_checksum=False, **entries):
        index = json.loads((folder / "store.json").read_text()) | entries
        index = index if keep_checksum else {k: v for k, v in index.items() if k != "sha256"}
        (folder / "store.json").write_text(json.dumps(index))
        return folder

    return changed


def shards(folder, **first):
    index = json.loads((folder / "store.json").read_text())
    return [{**index["shards"][0], **first}, *index["shards"][1:]]


def refused(message):
    return pytest.raises(ValueError, match=message)


def test_an_index_without_a_checksum_is_read(store):
    assert len(LatentStore(store())) == 6


def test_an_index_that_was_changed_is_refused(store):
    with refused("store.json is damaged: the checksum .* delete its entry 'sha256'"):
        LatentStore(store(keep_checksum=True, normalisation={"mean": [0.0], "std": [2.0]}))


@pytest.mark.parametrize("name", ["../outside.npy", "{}/outside.npy", "a/../../outside.npy"])
def test_a_shard_outside_the_folder_is_not_read(store, made, tmp_path, name):
    entries = shards(made, file=name.format(tmp_path))
    with refused("must be a relative path that stays in its folder"):
        LatentStore(store(shards=entries))


def test_a_shard_that_is_a_link_out_of_the_folder_is_not_read(store, tmp_path):
    folder = store()
    (folder / "shard-00000.npy").unlink()
    (folder / "shard-00000.npy").symlink_to(tmp_path / "outside.npy")
    with refused("shard-00000.npy is a link to .*outside.npy: copy the file"):
        LatentStore(folder)


@pytest.mark.parametrize(
    "entries",
    [
        {"count": "6"}, {"count": 7}, {"count": True}, {"shape": 4}, {"class_names": None},
        {"normalisation": {"mean": ["x"]}}, {"normalisation": {"men": [0.0]}}, {"shards": []},
        {"shards": None}, {"shards": [{}]}, {"shards": [3]},
    ],
)  # fmt: skip
def test_wrong_entries_of_an_index_are_one_line_that_names_it(store, entries):
    with refused("store.json") as caught:
        LatentStore(store(**entries))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"no array", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_damaged_labels_are_one_line_that_names_them(store, data):
    folder = store()
    (folder / "labels.npy").write_bytes(data)
    with refused("labels.npy"):
        LatentStore(folder)
