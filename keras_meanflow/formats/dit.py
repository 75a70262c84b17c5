"""The formats of the DiT family: seven ways to publish the weights of one transformer."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Collection
from typing import Any

import numpy as np

from keras_meanflow.formats.dialects import FLAX, TORCH, Dialect, flax_patch, repeated
from keras_meanflow.formats.format import Format, required
from keras_meanflow.formats.turns import Row
from keras_meanflow.networks.base import Network
from keras_meanflow.networks.dit import SIZES, DiT
from keras_meanflow.networks.layers import sincos_positions
from keras_meanflow.networks.noise_prediction import BETAS, STEPS, NoisePrediction

HEADS = {width: heads for _, width, heads in SIZES.values()}

# Our layer, theirs, and its kind; blocks come with their number in front.
BLOCK = (
    ("attention.qkv", "attn.qkv", "linear"),
    ("attention.proj", "attn.proj", "linear"),
    ("fc1", "mlp.fc1", "linear"),
    ("fc2", "mlp.fc2", "linear"),
    ("modulation", "adaLN_modulation.1", "linear"),
)
QK_NORM = (
    ("attention.q_norm", "attn.q_norm", "norm"),
    ("attention.k_norm", "attn.k_norm", "norm"),
)
DIFFUSERS_BLOCK = (
    ("attention.qkv", ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "joined"),
    ("attention.proj", "attn1.to_out.0", "linear"),
    ("fc1", "ff.net.0.proj", "linear"),
    ("fc2", "ff.net.2", "linear"),
    ("modulation", "norm1.linear", "linear"),
)
TORCH_DIALECT = Dialect(TORCH)
FLAX_DIALECT = Dialect(
    FLAX, lambda path: re.sub(r"\.(\d+)", r"/layers_\1", path).replace(".", "/"), flax_patch
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiTFormat(Format):
    """A format of the DiT family: the properties of its networks, and its table.

    Args:
        name, origin, training_only, wrapping: see `Format`.
        time_inputs: of its networks.
        time_scale: factor between our time in [0, 1] and the sinusoid.
        frequency_shift: of the sinusoids.
        stores_positions: whether the fixed position table is in the file.
        qk_norm: whether queries and keys may be RMS-normalised.
        splits: whether a network may have a `split_depth`: the later blocks get r instead of t.
        predicts_noise: whether its networks predict the noise of a DDPM with DiT's schedule.
        dialect: names and layouts of the layers' tensors.
    """

    name: str
    origin: str
    time_inputs: tuple
    time_scale: float = 1.0
    frequency_shift: int = 0
    stores_positions: bool = True
    qk_norm: bool = False
    splits: bool = False
    predicts_noise: bool = False
    training_only: tuple = ()
    wrapping: tuple = ()
    dialect: Dialect = TORCH_DIALECT

    @abc.abstractmethod
    def table(self, depth: int, qk_norm: bool = False) -> list[Row]:
        """The rows of a network of this depth."""

    def rows(self, network: DiT) -> list[Row]:
        """The table of the network."""
        return self.table(network.depth, network.qk_norm)

    def constants(self, network: DiT) -> dict[str, np.ndarray]:
        """The position table."""
        if not self.stores_positions:
            return {}
        return {"pos_embed": sincos_positions(*network.grid, network.width)[None]}

    def network(self, state: dict[str, np.ndarray], **settings: Any) -> DiT:
        """The DiT for these tensors; for a published width the number of heads is known."""
        shapes = {name: array.shape for name, array in state.items()}
        depth = 0
        while self._shape(shapes, f"blocks.{depth}.fc1.bias", depth + 1):
            depth += 1

        def shape(ours):
            found = self._shape(shapes, ours, depth)
            if found is None:
                self._check_names(state, self.table(depth), {}, ())
            return found

        patch_size, channels = self.dialect.patch(shape("patches.kernel"))
        width = shape("patches.bias")[0]
        found = {
            "channels": channels,
            "patch_size": patch_size,
            "width": width,
            "depth": depth,
            "mlp_ratio": shape("blocks.0.fc1.bias")[0] / width,
            "num_classes": shape("labels.embeddings")[0] - 1,
            "unused_channels": shape("out.bias")[0] // patch_size**2 - channels,
            "time_inputs": self.time_inputs,
            "time_scale": self.time_scale,
            "frequency_shift": self.frequency_shift,
            "qk_norm": self._has_qk_norm(shapes),
        }
        if width in HEADS:
            found["heads"] = HEADS[width]
        if "pos_embed" in state:
            found["image_size"] = int(state["pos_embed"].shape[1] ** 0.5) * patch_size
        found |= settings
        required(found, "heads", "16")
        required(found, "image_size", "32")
        if self.splits:
            required(found, "split_depth", "20 for DMF-XL/2 or None for a flow model")
        return DiT(**found)

    def velocity(self, network: DiT) -> Network:
        """See `Format.velocity`."""
        return NoisePrediction(network) if self.predicts_noise else network

    def published(self, network: Network) -> Network:
        """See `Format.published`."""
        if not self.predicts_noise:
            return network
        if not isinstance(network, NoisePrediction):
            raise ValueError(
                f"The format {self.name} holds networks that predict noise, NoisePrediction(DiT). "
                f"Received: {type(network).__name__}."
            )
        if (network.betas, network.steps) != (BETAS, STEPS):
            raise ValueError(
                f"The format {self.name} uses the linear schedule {BETAS} in {STEPS} steps. "
                f"Received: {network.betas} in {network.steps}."
            )
        return network.network

    def _shape(self, shapes, ours, depth):
        """The shape of the first tensor that our weight is made from; None if it is missing."""
        for row in self.table(depth, self._has_qk_norm(shapes)):
            if row.ours == ours:
                return shapes.get(row.theirs[0])
        return None

    def _has_qk_norm(self, shapes):
        return self.qk_norm and "blocks.0.attn.q_norm.scale" in shapes

    def check(self, network: Network) -> None:
        """Raise a ValueError for a network that the code of this format computes differently."""
        if not isinstance(network, DiT) or not network.conditional:
            raise ValueError(
                f"The format {self.name} holds DiT networks with labels. "
                f"Received: {type(network).__name__}, num_classes {network.num_classes}."
            )
        scales = np.broadcast_to(network.time_scale, len(network.time_inputs)).tolist()
        differences = [
            f"{name} {found} (the format's is {expected})"
            for name, found, expected in (
                ("time_inputs", network.time_inputs, self.time_inputs),
                ("time_scale", set(scales), {self.time_scale}),
                ("frequency_shift", network.frequency_shift, self.frequency_shift),
                ("qk_norm", network.qk_norm, network.qk_norm and self.qk_norm),
                ("split_depth", network.split_depth, network.split_depth if self.splits else None),
            )
            if found != expected
        ]
        if differences:
            raise ValueError(
                f"The code that reads the format {self.name} would compute another function. "
                f"Received a network with {'; '.join(differences)}. Save it in another format."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedDiT(DiTFormat):
    """The names of the original DiT code, as torch or flax spells them.

    Args:
        embedders: the names of the time embedders, in the order of `time_inputs`.
        negated: whether the published output is minus ours, because its time 1 is data.
    """

    embedders: tuple = ("t_embedder",)
    negated: bool = False

    def recognises(self, names: Collection[str]) -> bool:
        """Whether there are exactly these embedders, in this dialect."""
        found = {match[0] for name in names if (match := re.match(r"[a-z_]+_embedder.", name))}
        embedders = ("x_embedder", "y_embedder", *self.embedders)
        if found != {self.dialect.path(f"{name}.") for name in embedders}:
            return False
        return any(name.startswith(self.dialect.path("blocks.0.")) for name in names)

    def table(self, depth: int, qk_norm: bool = False) -> list[Row]:
        """The rows of a network of this depth."""
        layers = [("patches", "x_embedder.proj", "patches")]
        for i, embedder in enumerate(self.embedders):
            layers.append((f"times.{i}.hidden", f"{embedder}.mlp.0", "linear"))
            layers.append((f"times.{i}.out", f"{embedder}.mlp.2", "linear"))
        layers.append(("labels", "y_embedder.embedding_table", "embedding"))
        block = BLOCK + (QK_NORM if qk_norm else ())
        layers += [
            (f"blocks.{i}.{ours}", f"blocks.{i}.{theirs}", kind)
            for i in range(depth)
            for ours, theirs, kind in block
        ]
        layers.append(("modulation", "final_layer.adaLN_modulation.1", "linear"))
        layers.append(("out", "final_layer.linear", "negated" if self.negated else "linear"))
        return [row for layer in layers for row in self.dialect.rows(*layer)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusersDiT(DiTFormat):
    """diffusers' `DiTTransformer2DModel`: each block has a copy of the two embeddings."""

    def recognises(self, names: Collection[str]) -> bool:
        """Whether the first block has its copy of the class embedding."""
        return any(n.startswith("transformer_blocks.0.norm1.emb.class_embedder.") for n in names)

    def constants(self, network: DiT) -> dict[str, np.ndarray]:
        """The position table, which some versions store."""
        return {"pos_embed.pos_embed": sincos_positions(*network.grid, network.width)[None]}

    def optional(self, network: DiT) -> tuple[str, ...]:
        """The position table."""
        return ("pos_embed.pos_embed",)

    def state_of(self, network: DiT) -> dict[str, np.ndarray]:
        """The tensors by name, without the position table."""
        state = super().state_of(network)
        return {name: array for name, array in state.items() if name not in self.optional(network)}

    def table(self, depth: int, qk_norm: bool = False) -> list[Row]:
        """The rows of a network of this depth."""
        copies = Dialect({k: repeated(k, depth) for k in ("linear", "embedding")})
        embeddings = (
            ("times.0.hidden", "timestep_embedder.linear_1", "linear"),
            ("times.0.out", "timestep_embedder.linear_2", "linear"),
            ("labels", "class_embedder.embedding_table", "embedding"),
        )
        rows = self.dialect.rows("patches", "pos_embed.proj", "patches")
        for ours, theirs, kind in embeddings:
            paths = [f"transformer_blocks.{i}.norm1.emb.{theirs}" for i in range(depth)]
            rows += copies.rows(ours, paths, kind)
        for i in range(depth):
            for ours, theirs, kind in DIFFUSERS_BLOCK:
                theirs = (theirs,) if isinstance(theirs, str) else theirs
                paths = [f"transformer_blocks.{i}.{path}" for path in theirs]
                rows += self.dialect.rows(f"blocks.{i}.{ours}", paths, kind)
        rows += self.dialect.rows("modulation", "proj_out_1", "linear")
        return rows + self.dialect.rows("out", "proj_out_2", "linear")


DIT_FORMATS = (
    NamedDiT(
        name="dit",
        origin="facebookresearch/DiT, which predicts noise at 1000 t",
        time_inputs=("t",),
        time_scale=1000.0,
        predicts_noise=True,
    ),
    NamedDiT(
        name="sit",
        origin="willisma/SiT, whose time 1 is data",
        time_inputs=("1-t",),
        negated=True,
        training_only=("projectors.*",),
    ),
    NamedDiT(
        name="dmf",
        origin="kyungmnlee/dmf and REPA, whose time 1 is noise",
        time_inputs=("t",),
        qk_norm=True,
        splits=True,
        training_only=("projectors.*", "logvar_linear.*"),
    ),
    NamedDiT(
        name="zhuyu",
        origin="zhuyu-cs/MeanFlow",
        time_inputs=("t", "t-r"),
        embedders=("t_embedder", "r_embedder"),
        training_only=("projectors.*",),
    ),
    NamedDiT(
        name="haoyi",
        origin="HaoyiZhu/MeanFlow-PyTorch",
        time_inputs=("t", "t-r"),
        embedders=("t_embedder", "h_embedder"),
        training_only=("projectors.*",),
    ),
    NamedDiT(
        name="meanflow",
        origin="Gsunshine/meanflow, the official JAX code",
        time_inputs=("t", "t-r"),
        embedders=("t_embedder", "h_embedder"),
        stores_positions=False,
        wrapping=("params", "net"),
        dialect=FLAX_DIALECT,
    ),
    DiffusersDiT(
        name="diffusers",
        origin="DiTTransformer2DModel of diffusers",
        time_inputs=("t",),
        time_scale=1000.0,
        frequency_shift=1,
        stores_positions=False,
        predicts_noise=True,
    ),
)
