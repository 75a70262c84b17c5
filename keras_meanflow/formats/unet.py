"""The formats of published U-Nets: NCSN++ of MeanFlowSE and SongUNet of py-meanflow."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from keras_meanflow.formats import turns
from keras_meanflow.formats.dialects import TORCH, Dialect
from keras_meanflow.formats.format import Format
from keras_meanflow.formats.turns import Row
from keras_meanflow.networks.base import Network
from keras_meanflow.networks.unet import UNet
from keras_meanflow.networks.unet_layers import LogFourierPair, SinusoidPair

DIALECT = Dialect(
    {
        **TORCH,
        "conv": [("kernel", ".weight", turns.TORCH_CONV), ("bias", ".bias", turns.SAME)],
        "conv1": [("kernel", ".weight", turns.TORCH_CONV1), ("bias", ".bias", turns.SAME)],
        "negated": [
            ("kernel", ".weight", turns.NEGATED_TORCH_CONV1),
            ("bias", ".bias", turns.NEGATED),
        ],
        "group norm": [("gamma", ".weight", turns.SAME), ("beta", ".bias", turns.SAME)],
        "nin": [("kernel", ".W", turns.SAME), ("bias", ".b", turns.SAME)],
        "joined nin": [("kernel", ".W", turns.JOINED), ("bias", ".b", turns.JOINED)],
        "after sinusoids": [
            ("kernel", ".weight", turns.SINES_FIRST),
            ("bias", ".bias", turns.SAME),
        ],
        "beside sinusoids": [("kernel", ".weight", turns.SINES_FIRST_OUTPUT)],
    }
)
NCSNPP_BLOCK = (
    ("norm0", "GroupNorm_0", "group norm"),
    ("conv0", "Conv_0", "conv"),
    ("affine", "Dense_0", "linear"),
    ("norm1", "GroupNorm_1", "group norm"),
    ("conv1", "Conv_1", "conv"),
)
NCSNPP_ATTENTION = (
    ("attention.norm", "GroupNorm_0", "group norm"),
    ("attention.qkv", ("NIN_0", "NIN_1", "NIN_2"), "joined nin"),
    ("attention.proj", "NIN_3", "nin"),
)
SONG_BLOCK = (
    ("norm0", "norm0", "group norm"),
    ("conv0", "conv0", "conv"),
    ("affine", "affine", "linear"),
    ("norm1", "norm1", "group norm"),
    ("conv1", "conv1", "conv"),
)
SONG_ATTENTION = (
    ("attention.norm", "norm2", "group norm"),
    ("attention.qkv", "qkv", "conv1"),
    ("attention.proj", "proj", "conv1"),
)
FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype("float32")[None, None] / 64


def _layer_rows(ours, theirs, table):
    """The rows of a table of layers, below our path and their path."""
    rows = []
    for name, parts, kind in table:
        parts = (parts,) if isinstance(parts, str) else parts
        rows += DIALECT.rows(f"{ours}.{name}", [f"{theirs}.{part}" for part in parts], kind)
    return rows


def _check_unet(name, network, **expected):
    """Raise a ValueError unless the network is a UNet with these attributes."""
    found = {key: getattr(network, key, None) for key in expected}
    if not isinstance(network, UNet) or found != expected:
        raise ValueError(
            f"The format {name} holds UNet networks with {expected}. "
            f"Received: {type(network).__name__} with {found}."
        )


class NCSNpp(Format):
    """The network of MeanFlowSE; our u is minus its output, so its last layer changes sign."""

    name = "ncsnpp"
    origin = "liduojia1/MeanFlowSE, torch"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether there is an embedding of the interval t - r."""
        return "delta_gfproj.W" in names

    def network(self, state: dict[str, np.ndarray], **settings: Any) -> UNet:
        """The UNet of this width; other sizes are the published ones, unless they are given."""
        return UNet.ncsnpp(**{"width": len(state["delta_gfproj.W"]), **settings})

    def check(self, network: Network) -> None:
        """Raise a ValueError for a network that the published code would compute differently."""
        skips = {"input_skips": True, "output_skips": True, "num_classes": None}
        _check_unet(self.name, network, channels=2, context_channels=2, **skips)
        if not isinstance(network.times, LogFourierPair) or network.augmentation_size:
            raise ValueError(
                f"The format {self.name} needs times=LogFourierPair and no augmentation. Received: "
                f"{type(network.times).__name__}, augmentation_size={network.augmentation_size}."
            )

    def rows(self, network: UNet) -> list[Row]:
        """The table: the published modules are numbered in the order of their calls."""
        rows = [
            Row("times.t_frequencies", ("all_modules.0.W",), turns.SAME),
            Row("times.gap_frequencies", ("delta_gfproj.W",), turns.SAME),
            *DIALECT.rows("times.t_hidden", "all_modules.1", "linear"),
            *DIALECT.rows("times.t_out", "all_modules.2", "linear"),
            *DIALECT.rows("times.gap_hidden", "delta_fc1", "linear"),
            *DIALECT.rows("times.gap_out", "delta_fc2", "linear"),
            *DIALECT.rows("last", "output_layer", "negated"),
        ]
        for i, (ours, kind) in enumerate(self._modules(network), start=3):
            theirs = f"all_modules.{i}"
            if kind == "block":
                rows += self._block(network, ours, theirs)
            elif kind == "attention":
                rows += _layer_rows(ours, theirs, NCSNPP_ATTENTION)
            elif kind == "combine":
                rows += DIALECT.rows(ours, f"{theirs}.Conv_0", "conv1")
            else:
                rows += DIALECT.rows(ours, theirs, kind)
        return rows

    def _block(self, network, ours, theirs):
        name, _, index = ours.partition(".")
        rows = _layer_rows(ours, theirs, NCSNPP_BLOCK)
        if getattr(network, name)[int(index)].skip is not None:
            rows += DIALECT.rows(f"{ours}.skip", f"{theirs}.Conv_2", "conv1")
        return rows

    def _modules(self, network):
        """Yields (our layer, its kind) in the order of the published list."""
        yield "first", "conv"
        blocks, levels = network.blocks, len(network.multipliers)
        for level in range(levels):
            if level:
                yield f"shrink.{level - 1}", "block"
                yield f"input_taps.{level - 1}", "combine"
            for i in range(level * blocks, (level + 1) * blocks):
                yield from self._block_and_attention(network, "encoder", i)
        yield from self._block_and_attention(network, "middle", 0)
        yield "middle.1", "block"
        for level in range(levels):
            if level:
                yield f"grow.{level - 1}", "block"
            for i in range(level * (blocks + 1), (level + 1) * (blocks + 1)):
                yield from self._block_and_attention(network, "decoder", i)
            yield f"output_norms.{level}", "group norm"
            yield f"output_taps.{level}", "conv"

    def _block_and_attention(self, network, name, index):
        yield f"{name}.{index}", "block"
        if getattr(network, name)[index].attends:
            yield f"{name}.{index}", "attention"


class SongUNet(Format):
    """py-meanflow's network for CIFAR-10, after EDM; its sinusoids begin with the sines."""

    name = "song"
    origin = "Gsunshine/py-meanflow, torch"

    def recognises(self, names: Collection[str]) -> bool:
        """Whether the layers have the names that EDM gave them."""
        return "map_layer0.weight" in names and any(n.startswith("enc.") for n in names)

    def network(self, state: dict[str, np.ndarray], **settings: Any) -> UNet:
        """The UNet of this width; other sizes are the published ones, unless they are given."""
        first = next(n for n in state if n.startswith("enc.") and n.endswith("_conv.weight"))
        width, channels = state[first].shape[:2]
        labels = state["map_augment.weight"].shape[1] if "map_augment.weight" in state else 0
        image_size = int(first.split(".")[1].split("x")[0])
        found = {"width": width, "channels": channels, "augmentation_size": labels}
        return UNet.song(**{**found, "image_size": image_size, **settings})

    def check(self, network: Network) -> None:
        """Raise a ValueError for a network that the published code would compute differently."""
        skips = {"input_skips": False, "output_skips": False, "num_classes": None}
        _check_unet(self.name, network, context_channels=0, **skips)
        if not isinstance(network.times, SinusoidPair) or network.times.time_scale != 1.0:
            raise ValueError(
                f"The format {self.name} needs times=SinusoidPair with time_scale 1. Received: "
                f"{type(network.times).__name__}, {getattr(network.times, 'time_scale', None)}."
            )

    def rows(self, network: UNet) -> list[Row]:
        """The table."""
        rows = DIALECT.rows("times.hidden", "map_layer0", "after sinusoids")
        rows += DIALECT.rows("times.out", "map_layer1", "linear")
        if network.augmentation_size:
            rows += DIALECT.rows("augmentation", "map_augment", "beside sinusoids")
        size = self._sizes(network)[0]
        rows += DIALECT.rows("first", f"enc.{size}_conv", "conv")
        rows += DIALECT.rows("output_norms.0", f"dec.{size}_aux_norm", "group norm")
        rows += DIALECT.rows("output_taps.0", f"dec.{size}_aux_conv", "conv")
        for block, ours, theirs in self._blocks(network):
            rows += _layer_rows(ours, theirs, SONG_BLOCK)
            if block.skip is not None:
                rows += DIALECT.rows(f"{ours}.skip", f"{theirs}.skip", "conv1")
            if block.attends:
                rows += _layer_rows(ours, theirs, SONG_ATTENTION)
        return rows

    def constants(self, network: UNet) -> dict[str, np.ndarray]:
        """The resampling filter of each layer that resamples."""
        resampled = [theirs for block, _, theirs in self._blocks(network) if block.resample]
        layers = ("conv0", "skip")
        return {
            f"{theirs}.{name}.resample_filter": FILTER for theirs in resampled for name in layers
        }

    def _sizes(self, network):
        """The names of the levels: the sides of their squares, as in 32x32."""
        sides = [network.image_size[0] >> level for level in range(len(network.multipliers))]
        return [f"{side}x{side}" for side in sides]

    def _blocks(self, network):
        """Yields (block, our path, their path)."""
        count, sizes = network.blocks, self._sizes(network)
        paths = {f"middle.{i}": f"dec.{sizes[-1]}_in{i}" for i in range(2)}
        for level, size in enumerate(sizes):
            up = len(sizes) - 1 - level
            paths |= {f"encoder.{level * count + i}": f"enc.{size}_block{i}" for i in range(count)}
            paths |= {
                f"decoder.{up * (count + 1) + i}": f"dec.{size}_block{i}" for i in range(count + 1)
            }
            if level:
                paths[f"shrink.{level - 1}"] = f"enc.{size}_down"
            if up:
                paths[f"grow.{up - 1}"] = f"dec.{size}_up"
        for ours, theirs in paths.items():
            name, _, index = ours.partition(".")
            yield getattr(network, name)[int(index)], ours, theirs


UNET_FORMATS = (NCSNpp(), SongUNet())
