"""The formats of improved MeanFlow: the flax file and the torch one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_meanflow.formats import turns
from keras_meanflow.formats.dialects import FLAX, TORCH, Dialect, flax_patch
from keras_meanflow.formats.format import Format, required
from keras_meanflow.formats.turns import Row
from keras_meanflow.networks.base import Network
from keras_meanflow.networks.in_context import IN_CONTEXT_SIZES, InContextDiT

HEADS = {width: heads for _, width, heads in IN_CONTEXT_SIZES.values()}
STACKS = {"trunk": "shared_blocks", "u_blocks": "u_heads", "v_blocks": "v_heads"}
TOKENS = {  # our weight: (the argument that counts its tokens, their name)
    "class_prefix": ("class_tokens", "class_tokens"),
    "omega_prefix": ("omega_tokens", "omega_tokens"),
    "t_min_prefix": ("interval_tokens", "t_min_tokens"),
    "t_max_prefix": ("interval_tokens", "t_max_tokens"),
    "time_prefix": ("time_tokens", "time_tokens"),
}
NUMBERS = {
    "omega": "omega_embedder",
    "t_min": "cfg_t_start_embedder",
    "t_max": "cfg_t_end_embedder",
    "time": "h_embedder",
}
BLOCK = (
    ("norm1", "norm1", "norm"),
    ("attention.qkv", ("attn.q_proj", "attn.k_proj", "attn.v_proj"), "joined"),
    ("attention.proj", "attn.out_proj", "product"),
    ("attention.q_norm", "attn.q_norm", "norm"),
    ("attention.k_norm", "attn.k_norm", "norm"),
    ("norm2", "norm2", "norm"),
    ("mlp.gate", "mlp.w1", "product"),
    ("mlp.up", "mlp.w3", "product"),
    ("mlp.down", "mlp.w2", "product"),
)
GATES = (("attention_gate", "attn_scale"), ("mlp_gate", "mlp_scale"))


def _flax_path(path):
    path = re.sub(r"^(\w+)\.(\d+)", r"\1_\2", path)  # stacks of blocks
    return re.sub(r"\.(\d+)", r"/layers_\1", path).replace(".", "/")


FLAX_DIALECT = Dialect(
    {
        **FLAX,
        "product": [("kernel", "/_flax_linear/kernel", turns.SAME)],
        "joined": [("kernel", "/_flax_linear/kernel", turns.JOINED)],
        "norm": [("scale", "/kernel", turns.SAME)],
    },
    _flax_path,
    flax_patch,
)
TORCH_DIALECT = Dialect(
    {
        "linear": [
            ("kernel", "._flax_linear.weight", turns.TRANSPOSED),
            ("bias", "._flax_linear.bias", turns.SAME),
        ],
        "patches": TORCH["patches"],
        "embedding": [("embeddings", "._flax_embedding.weight", turns.SAME)],
        "product": [("kernel", "._flax_linear.weight", turns.TRANSPOSED)],
        "joined": [("kernel", "._flax_linear.weight", turns.JOINED_TRANSPOSED)],
        "norm": [("scale", ".weight", turns.SAME)],
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InContextFormat(Format):
    """A format of improved MeanFlow's transformer.

    Args:
        name, origin, wrapping: see `Format`.
        dialect: names and layouts of the layers' tensors.
    """

    name: str
    origin: str
    dialect: Dialect
    wrapping: tuple = ()

    def recognises(self, names: Collection[str]) -> bool:
        """Whether there is an embedder of omega, in this dialect."""
        return any(name.startswith(self.dialect.path("omega_embedder.mlp.0.")) for name in names)

    def network(self, state: dict[str, np.ndarray], **settings: Any) -> InContextDiT:
        """The transformer for these tensors; the size of the query norms gives the heads."""
        depths = {ours: self._depth(state, theirs) for ours, theirs in STACKS.items()}
        self._check_names(state, self.table(depths), {}, ())
        first = {row.ours: row.theirs[0] for row in self.table(depths)}
        shape = {ours: state[theirs].shape for ours, theirs in first.items()}
        patch_size, channels = self.dialect.patch(shape["patches.kernel"])
        width = shape["patches.bias"][0]
        block = "trunk.0" if depths["trunk"] else "u_blocks.0"
        hidden = max(shape[f"{block}.mlp.gate.kernel"])
        found = {
            "channels": channels,
            "patch_size": patch_size,
            "width": width,
            "depth": depths["trunk"] + depths["u_blocks"],
            "heads": width // shape[f"{block}.attention.q_norm.scale"][0],
            "head_depth": depths["u_blocks"],
            "v_depth": depths["v_blocks"],
            # The network rounds width * mlp_ratio down.
            "mlp_ratio": 8 / 3 if hidden == int(width * 8 / 3) else (hidden + 0.5) / width,
            "num_classes": shape["labels.embeddings"][0] - 1,
            **{count: shape[ours][0] for ours, (count, _) in TOKENS.items()},
        }
        found |= settings
        required(found, "image_size", "32")
        return InContextDiT(**found)

    def _depth(self, state, theirs):
        depth = 0
        while any(n.startswith(self.dialect.path(f"{theirs}.{depth}.norm1.")) for n in state):
            depth += 1
        return depth

    def check(self, network: Network) -> None:
        """Raise a ValueError for any other network, or another time scale."""
        if not isinstance(network, InContextDiT) or not network.conditional:
            raise ValueError(
                f"The format {self.name} holds InContextDiT networks with labels. "
                f"Received: {type(network).__name__}, num_classes {network.num_classes}."
            )
        if network.time_scale != 1.0:
            raise ValueError(
                f"The format {self.name} needs time_scale 1. Received: {network.time_scale}."
            )

    def rows(self, network: InContextDiT) -> list[Row]:
        """The table of the network."""
        return self.table({ours: len(getattr(network, ours)) for ours in STACKS})

    def table(self, depths: dict[str, int]) -> list[Row]:
        """The rows of a network whose stacks of blocks have these depths."""
        rows = [Row(ours, (theirs,), turns.SAME) for ours, (_, theirs) in TOKENS.items()]
        layers = [("patches", "x_embedder.proj", "patches")]
        layers.append(("labels", "y_embedder.embedding_table", "embedding"))
        for ours, theirs in NUMBERS.items():
            layers.append((f"{ours}.hidden", f"{theirs}.mlp.0", "linear"))
            layers.append((f"{ours}.out", f"{theirs}.mlp.2", "linear"))
        for head in "uv":
            layers.append((f"{head}_norm", f"{head}_final_layer.norm", "norm"))
            layers.append((f"{head}_out", f"{head}_final_layer.linear", "linear"))
        for row in (self.dialect.rows(*layer) for layer in layers):
            rows += row
        for ours, theirs in STACKS.items():
            for i in range(depths[ours]):
                rows += self._block(f"{ours}.{i}", f"{theirs}.{i}")
        return rows

    def _block(self, ours, theirs):
        rows = [
            Row(f"{ours}.{gate}", (self.dialect.path(f"{theirs}.{scale}"),), turns.SAME)
            for gate, scale in GATES
        ]
        for name, parts, kind in BLOCK:
            parts = (parts,) if isinstance(parts, str) else parts
            paths = [f"{theirs}.{part}" for part in parts]
            rows += self.dialect.rows(f"{ours}.{name}", paths, kind)
        return rows


IMF_FORMATS = (
    InContextFormat(
        name="imf",
        origin="Lyy-iiis/imeanflow, JAX",
        dialect=FLAX_DIALECT,
        wrapping=("params", "net"),
    ),
    InContextFormat(
        name="imf-torch", origin="Lyy-iiis/imeanflow, branch torch", dialect=TORCH_DIALECT
    ),
)
