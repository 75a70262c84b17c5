"""The formats of DiT^DH: the flow model of RAE and the flow map of MF-RAE."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_meanflow.formats import turns
from keras_meanflow.formats.dialects import TORCH, Dialect
from keras_meanflow.formats.format import Format, required
from keras_meanflow.formats.turns import Row
from keras_meanflow.networks.base import Network
from keras_meanflow.networks.dit_dh import DH_SIZES, DiTDH, rotary_grid
from keras_meanflow.networks.layers import sincos_positions

DIALECT = Dialect({**TORCH, "norm": [("scale", ".weight", turns.SAME)]})
HEADS = {width: heads for width, _, heads in DH_SIZES.values()}
BLOCK = (
    ("norm1", "norm1", "norm"),
    ("norm2", "norm2", "norm"),
    ("qkv", "attn.qkv", "linear"),
    ("proj", "attn.proj", "linear"),
    ("fc1", "mlp.w12", "linear"),
    ("fc2", "mlp.w3", "linear"),
    ("modulation", "adaLN_modulation.1", "linear"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTDHFormat(Format):
    """A format of DiT^DH.

    Args:
        name, origin: see `Format`.
        embedders: the names of the time embedders: for t, then for t - r if there is one.
    """

    name: str
    origin: str
    embedders: tuple

    @property
    def time_inputs(self) -> tuple[str, ...]:
        """The time inputs of its networks."""
        return ("t", "t-r")[: len(self.embedders)]

    def recognises(self, names: Collection[str]) -> bool:
        """Whether there are the body's patches and exactly these time embedders."""
        found = {name for name in ("t_embedder", "r_embedder") if f"{name}.W" in names}
        return "s_embedder.proj.weight" in names and found == set(self.embedders)

    def network(self, state: dict[str, np.ndarray], **settings: Any) -> DiTDH:
        """The network for these tensors; for published widths the numbers of heads are known."""
        shape = {name: array.shape for name, array in state.items()}
        self._check_names(state, self.table((0, 0)), state, tuple(state))
        width = (shape["s_embedder.proj.bias"][0], shape["x_embedder.proj.bias"][0])
        depth = self._depth(shape, width)
        found = {
            "channels": shape["s_embedder.proj.weight"][1],
            "width": width,
            "depth": depth,
            "mlp_ratio": 4.0,
            "num_classes": shape["y_embedder.embedding_table.weight"][0] - 1,
            "time_inputs": self.time_inputs,
        }
        if width in HEADS:
            found["heads"] = HEADS[width]
        if "pos_embed" in state:
            found["image_size"] = int(shape["pos_embed"][1] ** 0.5)
        found |= settings
        required(found, "heads", "(16, 16)")
        required(found, "image_size", "16")
        return DiTDH(**found)

    def _depth(self, shape, width):
        """The number of blocks with the body's width, and with the head's width."""
        sizes = []
        while (name := f"blocks.{len(sizes)}.norm1.weight") in shape:
            sizes.append(shape[name][0])
        if width[0] == width[1]:
            return (len(sizes) - 2, 2)
        return tuple(sizes.count(size) for size in width)

    def check(self, network: Network) -> None:
        """Raise a ValueError for a network that the authors' code would compute differently."""
        if not isinstance(network, DiTDH) or not network.conditional:
            raise ValueError(
                f"The format {self.name} holds DiTDH networks with labels. "
                f"Received: {type(network).__name__}, num_classes {network.num_classes}."
            )
        found = (network.time_inputs, network.patch_size, network.width[0] != network.width[1])
        if found != (self.time_inputs, 1, True):
            raise ValueError(
                f"The code that reads the format {self.name} needs time_inputs {self.time_inputs}, "
                "patch_size 1 and a head of another width than the body. Received: "
                f"{network.time_inputs}, {network.patch_size} and widths {network.width}."
            )

    def constants(self, network: DiTDH) -> dict[str, np.ndarray]:
        """The tables of positions."""
        tables = {"pos_embed": sincos_positions(*network.grid, network.width[0])[None]}
        for part, width, heads in zip(("enc", "dec"), network.width, network.heads, strict=True):
            cos, sin = rotary_grid(*network.grid, width // heads)
            tables[f"{part}_feat_rope.freqs_cos"] = np.repeat(cos, 2, axis=1)
            tables[f"{part}_feat_rope.freqs_sin"] = np.repeat(sin, 2, axis=1)
        return tables

    def rows(self, network: DiTDH) -> list[Row]:
        """The table of the network."""
        return self.table(network.depth)

    def table(self, depth: tuple[int, int]) -> list[Row]:
        """The rows of a network with these numbers of blocks."""
        layers = [("body_patches", "s_embedder.proj", "patches")]
        layers.append(("head_patches", "x_embedder.proj", "patches"))
        rows = []
        for i, embedder in enumerate(self.embedders):
            rows.append(Row(f"times.{i}.W", (f"{embedder}.W",), turns.SAME))
            layers.append((f"times.{i}.hidden", f"{embedder}.mlp.0", "linear"))
            layers.append((f"times.{i}.out", f"{embedder}.mlp.2", "linear"))
        layers.append(("labels", "y_embedder.embedding_table", "embedding"))
        layers += [
            (f"blocks.{i}.{ours}", f"blocks.{i}.{theirs}", kind)
            for i in range(sum(depth))
            for ours, theirs, kind in BLOCK
        ]
        layers.append(("projection", "s_projector", "linear"))
        layers.append(("norm", "final_layer.norm_final", "norm"))
        layers.append(("modulation", "final_layer.adaLN_modulation.1", "linear"))
        layers.append(("out", "final_layer.linear", "linear"))
        return rows + [row for layer in layers for row in DIALECT.rows(*layer)]


RAE_FORMATS = (
    DiTDHFormat(
        name="rae",
        origin="bytetriper/RAE's DiTwDDTHead, a flow model",
        embedders=("t_embedder",),
    ),
    DiTDHFormat(
        name="mf-rae",
        origin="sony/mf-rae's DiTwDDTHead_MF",
        embedders=("t_embedder", "r_embedder"),
    ),
)
