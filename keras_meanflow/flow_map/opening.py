"""`open_model`: the FlowMap of any name, with the codec of its latents."""

from __future__ import annotations

import dataclasses
import functools
import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from keras_meanflow.codecs import Codec
from keras_meanflow.files.checkpoints import whole_checkpoint
from keras_meanflow.files.reading import reading
from keras_meanflow.files.saved import load_saved
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.flow_map.places import Place, place_of
from keras_meanflow.flow_map.presets import codec_of, load_codec
from keras_meanflow.formats.autoencoders import PublishedCodec
from keras_meanflow.networks import Network


@dataclasses.dataclass(frozen=True)
class Opened:
    """A model by its name.

    Args:
        flow_map: the model.
        place: what its name stands for.
    """

    flow_map: FlowMap
    place: Place

    @property
    def name(self) -> str:
        """The name that was opened."""
        return self.place.name

    @functools.cached_property
    def codec(self) -> Codec | None:
        """Decodes its samples to pixels, fetched if need be; None for a model of pixels."""
        return load_codec(self.place)

    @property
    def published_codec(self) -> Codec | PublishedCodec | None:
        """The same without fetching: a published codec stays an address."""
        return codec_of(self.place)

    def network(self, *, averaged: bool = True) -> Network:
        """A copy of its network, with the average used to generate or with the raw weights."""
        return self.flow_map.copied_network(self.flow_map.average if averaged else None)


def open_model(name: str | Path, **settings: Any) -> Opened:
    """The model that a name stands for, ready to generate, to export and to train further.

    Args:
        name: the directory of a run, whose newest whole checkpoint is loaded; a preset's folder or
            `hf://OWNER/REPOSITORY`; a `.keras` file; a known checkpoint such as "imf-b-2"; or a
            file of weights in a published format.
        **settings: of `FlowMap.from_preset`, only for a preset, a checkpoint or a file of weights.

    Raises:
        ValueError: for a name that stands for nothing, a run without a checkpoint, or settings that
            a run or a saved model does not take.

    Example:
        >>> opened = open_model("runs/digits")
        >>> samples = opened.flow_map.generate(np.arange(10))
        >>> pixels = samples if opened.codec is None else opened.codec.decode(samples)
    """
    place = place_of(name)
    if place.kind not in ("run", "saved"):
        return Opened(FlowMap.from_preset(place.name, **settings), place)
    if settings:
        raise ValueError(
            f"{name} is a {place.kind} model, which has all its settings. Received: {settings}."
        )
    file = _newest(place) if place.kind == "run" else place.name
    return Opened(load_saved(file), place)


def check_same_model(flow_map: FlowMap, path: str | Path) -> None:
    """Raise a ValueError for a checkpoint of another model, whose weights may have the same shapes.

    What both configurations say must be equal.

    Args:
        flow_map: the model that training goes on with.
        path: the checkpoint, a `.keras` file.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        saved = json.loads(archive.read("config.json"))
    ours = json.loads(json.dumps(keras.saving.serialize_keras_object(flow_map)))
    changes = list(_changes(saved, ours, ""))
    if changes:
        name, old, new = changes[0]
        raise ValueError(
            f"{path} is a checkpoint of another model: {name} was {old!r:.80}, now {new!r:.80}. "
            "Name another directory with --run DIR."
        )


_NOT_COMPARED = (
    "module", "registered_name", "name", "build_config", "compile_config",
    "horizon",  # a run may become longer
)  # fmt: skip


def _changes(old, new, name):
    """Yields (name, old, new) of the entries in both configurations that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old:
            if key in new and key not in _NOT_COMPARED:
                inner = name if key in ("config", "class_name") else f"{name}.{key}".lstrip(".")
                yield from _changes(old[key], new[key], inner)
    elif old != new:
        yield name, old, new


def _newest(place):
    newest = whole_checkpoint(place.folder() / "checkpoints")
    if newest is None:
        raise ValueError(f"{place.name} has no checkpoint yet. Train it for longer.")
    return newest
