"""FlowMaps from names, folders and addresses: `from_preset`, `save_to_preset`, `model_card`."""

import json
import re
from pathlib import Path
from typing import Any, Self

import keras

from keras_meanflow import __version__
from keras_meanflow.codecs.base import CODEC, Codec
from keras_meanflow.files.atomic import sha256_of, write_atomically, write_text
from keras_meanflow.files.cache import check_sha256
from keras_meanflow.files.fetching import fetch
from keras_meanflow.files.readers import read_weights
from keras_meanflow.files.reading import read_json, reading
from keras_meanflow.files.saved import load_saved
from keras_meanflow.flow_map.places import CARD, CONFIG, WEIGHTS, Place, place_of
from keras_meanflow.flow_map.weights import has_lora
from keras_meanflow.formats.autoencoders import AUTOENCODERS, PublishedCodec
from keras_meanflow.formats.conversion import assign_native, load_network, save_network
from keras_meanflow.networks.base import Network
from keras_meanflow.objectives import FlowMatching, MeanFlow, Objective


class Presets:
    """`from_preset` and `save_to_preset` of a FlowMap."""

    @classmethod
    def from_preset(
        cls,
        preset: str | Path,
        *,
        path: str | Path | None = None,
        objective: Objective | None = None,
        **settings: Any,
    ) -> Self:
        """A FlowMap with published or saved weights, in raw weights and averages alike.

        A preset is
        - a folder that `save_to_preset` wrote, or `hf://OWNER/REPOSITORY` of such a folder;
        - a name of `keras_meanflow.formats.checkpoints.CHECKPOINTS`: "imf-b-2", "sit-xl-2", ...;
        - a file in a published format, or `hf://OWNER/REPOSITORY/FILE`, with the settings of
          `load_network`.
        Remote files are fetched once, into `$KMF_CACHE` or `~/.cache/keras_meanflow`.

        Args:
            preset: one of these.
            path: the file of a named checkpoint, if it was fetched by hand.
            objective: for further training. The default is the folder's, or else `FlowMatching()`
                for a flow model and `MeanFlow()` for others.
            **settings: of `load_network`, such as `format="sit"` or `image_size=32`.

        Raises:
            ValueError: for an unknown name, a checkpoint that a browser has to fetch, weights that
                do not fit the network, or a folder whose objective has other networks, which a
                preset does not hold.

        Example:
            >>> flow_map = FlowMap.from_preset("imf-b-2")
            >>> latents = flow_map.generate([207, 88], steps=1)
        """
        place = place_of(preset)
        if place.kind == "preset":
            return cls._from_folder(place.folder(), objective)
        known = place.known
        if known is not None:
            settings = {"format": known.format, **known.settings, **settings}
        network = load_network(place.file(path), **settings)
        flow = known is not None and known.predicts != "average velocity"
        return cls(network, objective or (FlowMatching() if flow else MeanFlow()))  # type: ignore[call-arg]

    @classmethod
    def _from_folder(cls, folder, objective):
        config = _config_in(folder)["flow_map"]
        with reading(folder / CONFIG):
            if objective is not None:
                config["objective"] = keras.saving.serialize_keras_object(objective)
            flow_map = cls.from_config(config)
        if objective is None and (flow_map.teachers or flow_map.companion):
            raise ValueError(
                f"{type(flow_map.objective).__name__} has networks of its own, which a preset does "
                "not hold. Give an objective, MeanFlow() if it is for sampling only: "
                "from_preset(..., objective=MeanFlow())."
            )
        weights = _unchanged(folder, WEIGHTS)
        try:
            assign_native(flow_map.network, read_weights(weights))
        except ValueError as error:
            raise ValueError(f"{weights} cannot be loaded. {error}") from error
        flow_map.follow_weights()
        return flow_map

    def save_to_preset(
        self,
        folder: str | Path,
        *,
        codec: Codec | PublishedCodec | None = None,
        title: str = "A FlowMap",
        licence: str | None = None,
        text: str = "",
    ) -> None:
        """Write a folder to share: arguments, the weights of `average`, and a model card.

        It lacks what training needs to continue (raw weights beside averages, the optimizer, the
        step); `save` keeps that.

        Args:
            folder: created if it does not exist.
            codec: for a model of latents, what decodes them to pixels. A `Codec` is written beside
                the weights; of a `PublishedCodec` only the address is written.
            title: of the card.
            licence: of the weights, an SPDX name such as "mit".
            text: Markdown for the card: data, quality, intended use.

        Raises:
            ValueError: for a codec of other latents than the network's, or a folder with files
                of these names that are not a preset's.

        Example:
            >>> flow_map.save_to_preset("digits-preset", licence="apache-2.0")
            >>> FlowMap.from_preset("digits-preset").generate([3], seed=0)
        """
        if isinstance(codec, Codec):
            codec.check_latents(self.network.data_shape)
        folder = Path(folder)
        _check_replaceable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_network(self.network_with(self.average), folder / WEIGHTS)
        config = {"keras_meanflow": __version__, "flow_map": self.get_config()}
        if codec is not None:
            config["codec"] = _keep_codec(codec, folder)
        write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        write_text(folder / CARD, self._card(title, licence, text) + _checksums(folder))

    def network_with(self, average: float | None) -> Network:
        """The network itself for None, or a copy of it with the average of this decay.

        A network with LoRA is copied too: LoRA is merged into the weights of the copy.
        """
        itself = average is None and not has_lora(self.network)
        return self.network if itself else self.copied_network(average)

    def _card(self, title, licence, text):
        network, objective = self.network, self.objective
        return "\n".join(
            [
                "---",
                *([f"license: {licence}"] if licence else []),
                "library_name: keras_meanflow",
                "---",
                f"# {title}",
                "",
                f"{type(network).__name__} of {network.count_params():,} parameters for data of "
                f"shape {network.data_shape}, "
                f"{network.num_classes or 'no'} classes; trained with {type(objective).__name__}.",
                "",
                *(
                    [f"Labels 0, 1, ...: {', '.join(self.class_names)}."]
                    if self.class_names
                    else []
                ),
                text,
                "",
                "    from keras_meanflow import FlowMap",
                '    flow_map = FlowMap.from_preset("FOLDER or hf://OWNER/REPOSITORY")',
                f"    x = flow_map.generate({'[0, 1]' if network.conditional else 2}, steps=1)",
                "",
            ]
        )


def codec_of(place: Place | str | Path) -> Codec | PublishedCodec | None:
    """What decodes a model's samples to pixels: a `Codec`, a `PublishedCodec` or None.

    It is None for a model of pixels, and for a file of weights that is not in the table.

    Args:
        place: a `Place`, or a name.

    Raises:
        ValueError: for a preset whose codec is missing.
    """
    place = place if isinstance(place, Place) else place_of(place)
    if place.known is not None:
        return AUTOENCODERS[place.known.autoencoder]
    if place.kind in ("saved", "weights"):
        return None
    folder = place.folder()
    if place.kind == "run":
        return _codec_in(folder)
    kept = _config_in(folder).get("codec")
    if kept is None:
        return None
    if kept != CODEC:
        return _published_codec(kept, folder / CONFIG)
    if place.remote:
        fetch(f"{place.name}/{CODEC}")
    if not (folder / CODEC).is_file():
        raise ValueError(f"{folder} must hold {CODEC}, the codec of its latents. It is missing.")
    return load_saved(_unchanged(folder, CODEC))


def _published_codec(kept, path):
    """The codec that a preset's config names by its address."""
    with reading(path):
        codec = keras.saving.deserialize_keras_object(kept)
        if not isinstance(codec, PublishedCodec):
            raise ValueError(f"The codec is {CODEC} or a PublishedCodec. Received: {kept!r:.80}.")
        return codec


def load_codec(place: Place | str | Path) -> Codec | None:
    """The `Codec` of a `Place` or name, fetched if need be; None for a model of pixels.

    Example:
        >>> flow_map, codec = FlowMap.from_preset("sit-xl-2"), load_codec("sit-xl-2")
        >>> pixels = codec.decode(flow_map.generate([207], sampler=Euler(steps=50)))
    """
    codec = codec_of(place)
    return codec.load() if isinstance(codec, PublishedCodec) else codec


def _config_in(folder):
    """The config of a preset's folder.

    Raises:
        ValueError: for another file of this name.
    """
    config = read_json(_unchanged(folder, CONFIG))
    if not isinstance(config.get("flow_map"), dict):
        raise ValueError(
            f"{folder / CONFIG} must be what save_to_preset writes, with the arguments of a "
            f"flow_map. Received: {sorted(config)[:5]}."
        )
    return config


def _check_replaceable(folder):
    """Raise a ValueError for a folder whose files are of these names, but not of a preset."""
    there = [name for name in (CONFIG, WEIGHTS, CARD, CODEC) if (folder / name).exists()]
    if (folder / CONFIG).is_file():
        _config_in(folder)
    elif there:
        raise ValueError(
            f"{folder} holds {there[0]} and is no preset, so nothing is replaced. Name another "
            "folder."
        )


def _codec_in(folder):
    path = folder / CODEC
    return load_saved(path) if path.is_file() else None


def _checksums(folder):
    """The end of a card: the checksums of the files in a preset's folder."""
    names = [name for name in (CONFIG, WEIGHTS, CODEC) if (folder / name).is_file()]
    lines = [f"    {name} {sha256_of(folder / name)}" for name in names]
    about = "SHA-256, compared on loading. If you change a file, delete its line:"
    return "\n".join(["", about, "", *lines, ""])


def _unchanged(folder, name):
    """The path of a preset's file, whose checksum is compared with that in the card, if any."""
    card = folder / CARD
    text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
    recorded = dict(re.findall(r"^    (\S+) ([0-9a-f]{64})$", text, re.MULTILINE))
    check_sha256(folder / name, recorded.get(name))
    return folder / name


def _keep_codec(codec, folder):
    """Write a codec into a preset's folder; returns its entry in the config."""
    if isinstance(codec, PublishedCodec):
        return keras.saving.serialize_keras_object(codec)
    write_atomically(folder / CODEC, codec.save)
    return CODEC


def model_card(name: str) -> str:
    """The model card of a known checkpoint, in Markdown.

    Raises:
        ValueError: for an unknown name.

    Example:
        >>> print(model_card("imf-b-2"))
    """
    known = place_of(name).known
    if known is None:
        raise ValueError(f"{name} is no known checkpoint: it has no card here.")
    return known.card(name)
