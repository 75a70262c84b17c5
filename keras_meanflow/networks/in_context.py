"""InContextDiT: a transformer that gets times, guidance and class as tokens of its sequence."""

from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.networks.layers import TimeEmbedding, TokenDense
from keras_meanflow.networks.patches import patch_grid, patchify, unpatchify
from keras_meanflow.networks.rotary import RotaryBlock, fan_in_normal, rms_norm, rotary_table
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes

IN_CONTEXT_SIZES = {  # depth, width, heads
    "B": (12, 768, 12),
    "M": (24, 768, 12),
    "L": (32, 1024, 16),
    "XL": (48, 1024, 16),
}
GUIDANCE = {"omega": 1.0, "t_min": 0.0, "t_max": 1.0}  # no guidance
_LIMITS = {"omega": (1.0, np.inf), "t_min": (0.0, 1.0), "t_max": (0.0, 1.0)}


@register
class InContextDiT(Network):
    """The transformer of improved MeanFlow: no modulation; times and condition are tokens.

    The sequence is class, omega, t_min, t_max, t - r and patch tokens. Each of the first five is
    some learned tokens plus one embedding; t itself is not an input. The blocks have rotary
    positions over the whole sequence, RMS norms, SwiGLU and gates that start at zero. A trunk of
    `depth - head_depth` blocks has two heads: u, the output, and v, an estimate of the velocity
    for training.

    The condition is labels (B,), or a dict of "labels" and some of "omega", "t_min" and "t_max",
    each (B,). omega is the guidance scale, at least 1. t_min and t_max are the guidance interval.

    Args:
        image_size: height and width in pixels or latents, an integer or a pair.
        channels: number of channels.
        patch_size: side of a patch; divides the image size.
        width: size of a token.
        depth: blocks between input and u.
        heads: attention heads.
        head_depth: how many of these blocks are the head for u.
        v_depth: blocks of the head for v, by default `head_depth`. It is 0 in published files for
            inference, which keep only the last layer of v.
        mlp_ratio: hidden size of the SwiGLU over the width, rounded down.
        num_classes: number of classes, or None for an unconditional network.
        class_tokens, omega_tokens, interval_tokens, time_tokens: numbers of tokens for the class,
            omega, each end of the interval, and t - r.
        time_scale: factor between a number and its sinusoids.
        guidance: values of "omega", "t_min" and "t_max" for a condition without them; by default
            1, 0 and 1, which means no guidance.

    Raises:
        ValueError: for a patch size that does not divide the image, or a head deeper than `depth`.

    Example:
        >>> network = InContextDiT.from_size("B/2", image_size=32, channels=4, num_classes=1000)
        >>> u = network(z, r, t, {"labels": labels, "omega": omega})

    References:
        Improved Mean Flows (arXiv 2512.02012), section 4 and table 4 of the appendix.
    """

    reads_by_name = True

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        head_depth: int = 8,
        v_depth: int | None = None,
        mlp_ratio: float = 8 / 3,
        num_classes: int | None = None,
        class_tokens: int = 8,
        omega_tokens: int = 4,
        interval_tokens: int = 2,
        time_tokens: int = 4,
        time_scale: float = 1.0,
        guidance: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        height_width, grid = patch_grid(image_size, patch_size)
        check_sizes(channels=channels, width=width, depth=depth, heads=heads)
        check_sizes(head_depth=head_depth)
        super().__init__(
            data_shape=(*height_width, channels),
            num_classes=num_classes,
            optional_shape=dict.fromkeys(GUIDANCE, ()),
            **kwargs,
        )
        if not 0 <= head_depth <= depth:
            raise ValueError(f"head_depth must be in 0..depth. Received: {head_depth}, {depth}.")
        self.image_size, self.channels, self.patch_size = height_width, channels, patch_size
        self.width, self.depth, self.heads, self.mlp_ratio = width, depth, heads, mlp_ratio
        self.head_depth = head_depth
        self.v_depth = head_depth if v_depth is None else v_depth
        self.class_tokens, self.omega_tokens = class_tokens, omega_tokens
        self.interval_tokens, self.time_tokens = interval_tokens, time_tokens
        self.time_scale = time_scale
        self.guidance = {**GUIDANCE, **(guidance or {})}
        self.grid = grid
        self._make_layers()

    @classmethod
    def from_size(
        cls, size: str, *, image_size: int | tuple[int, int], channels: int, **kwargs: Any
    ) -> Self:
        """A published size: "B/2", "M/2", "L/2" or "XL/2"."""
        name, _, patch = size.partition("/")
        if name not in IN_CONTEXT_SIZES or patch != "2":
            known = ", ".join(f"{name}/2" for name in IN_CONTEXT_SIZES)
            raise ValueError(f"size is one of {known}. Received: {size!r}.")
        depth, width, heads = IN_CONTEXT_SIZES[name]
        sizes = {"patch_size": int(patch), "width": width, "depth": depth, "heads": heads}
        return cls(image_size=image_size, channels=channels, **sizes, **kwargs)

    def _make_layers(self):
        width, policy = self.width, self.dtype_policy
        patch = self.patch_size**2 * self.channels
        self.patches = TokenDense(width, dtype=policy, name="patches")
        self.patches.build((None, patch))
        if self.conditional:
            self.labels = layers.Embedding(
                self.num_classes + 1,
                width,
                embeddings_initializer=keras.initializers.RandomNormal(stddev=width**-0.5),
                dtype="float32",
            )
            self.labels.build((None,))
            self.class_prefix = self._prefix("class_prefix", self.class_tokens)
        self.omega, self.omega_prefix = self._number("omega", self.omega_tokens)
        self.t_min, self.t_min_prefix = self._number("t_min", self.interval_tokens)
        self.t_max, self.t_max_prefix = self._number("t_max", self.interval_tokens)
        self.time, self.time_prefix = self._number("time", self.time_tokens)
        self.trunk = self._blocks(self.depth - self.head_depth)
        self.u_blocks = self._blocks(self.head_depth)
        self.v_blocks = self._blocks(self.v_depth)
        self.u_norm, self.u_out = self._last(patch, policy)
        self.v_norm, self.v_out = self._last(patch, policy)
        self.built = True

    def _prefix(self, name, count):
        init = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        return self.add_weight((count, self.width), init, dtype="float32", name=name)

    def _number(self, name, count):
        """The embedding of a number, and the learned tokens that it is added to."""
        embedding = TimeEmbedding(
            self.width, time_scale=self.time_scale, kernel_initializer=fan_in_normal(1.0)
        )
        embedding.build((None,))
        return embedding, self._prefix(f"{name}_prefix", count)

    def _blocks(self, count):
        blocks = []
        for _ in range(count):
            block = RotaryBlock(self.heads, mlp_ratio=self.mlp_ratio, dtype=self.dtype_policy)
            block.build((None, None, self.width))
            blocks.append(block)
        return blocks

    def _last(self, patch, policy):
        # The last layer is float32, because targets and losses are.
        norm, out = rms_norm(policy), TokenDense(patch, kernel_initializer="zeros", dtype="float32")
        norm.build((None, self.width))
        out.build((None, self.width))
        return norm, out

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity u, float32 of the shape of `z`."""
        table = self._table()
        return self._head("u", self._trunk(z, r, t, condition, table), table)

    def u_and_v(
        self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        """The average velocity u and the estimate v of the velocity, from one pass of the trunk."""
        table = self._table()
        x = self._trunk(z, r, t, condition, table)
        return self._head("u", x, table), self._head("v", x, table)

    def velocity(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """Only the estimate v of the velocity."""
        table = self._table()
        return self._head("v", self._trunk(z, r, t, condition, table), table)

    def _table(self):
        tokens = self._prefix_length() + self.grid[0] * self.grid[1]
        cos, sin = rotary_table(tokens, self.width // self.heads)
        # With a NumPy factor PyTorch would compute the product in NumPy and lose the tangent.
        return ops.convert_to_tensor(cos), ops.convert_to_tensor(sin)

    def _prefix_length(self):
        numbers = self.omega_tokens + 2 * self.interval_tokens + self.time_tokens
        return numbers + (self.class_tokens if self.conditional else 0)

    def _trunk(self, z, r, t, condition, table):
        patches = patchify(z, self.grid, self.patch_size)
        x = self.patches(ops.cast(patches, self.compute_dtype))  # (B, N, D)
        prefix = ops.cast(self._prefix_tokens(r, t, condition), x.dtype)
        x = ops.concatenate([prefix, x], axis=1)
        for block in self.trunk:
            x = block(x, *table)
        return x

    def _prefix_tokens(self, r, t, condition):
        given = dict(self.by_name(condition))
        for name, value in self.guidance.items():
            given[name] = ops.cast(given[name], "float32") if name in given else 0.0 * t + value
        tokens = []
        if self.conditional:
            tokens.append(_add(self.class_prefix, self.labels(given["labels"])))
        tokens.append(_add(self.omega_prefix, self.omega(1.0 - 1.0 / given["omega"])))
        tokens.append(_add(self.t_min_prefix, self.t_min(given["t_min"])))
        tokens.append(_add(self.t_max_prefix, self.t_max(given["t_max"])))
        tokens.append(_add(self.time_prefix, self.time(t - r)))
        return ops.concatenate(tokens, axis=1)

    def _head(self, name, x, table):
        for block in getattr(self, f"{name}_blocks"):
            x = block(x, *table)
        norm, out = getattr(self, f"{name}_norm"), getattr(self, f"{name}_out")
        patches = out(norm(x[:, self._prefix_length() :]))
        return unpatchify(patches, self.grid, self.patch_size)

    def _check_type(self, name, part):
        if name not in _LIMITS:  # a number, or one for each row
            super()._check_type(name, part)

    def _check_values(self, name, part):
        if name not in _LIMITS:
            return super()._check_values(name, part)
        (low, high), values = _LIMITS[name], np.asarray(part)
        if not ((values >= low) & (values <= high)).all():
            raise ValueError(f"{name} must lie in [{low}, {high}]. Received: {values}.")

    def get_config(self) -> dict:
        """The arguments."""
        names = "image_size channels patch_size width depth heads head_depth v_depth".split()
        names += "mlp_ratio num_classes class_tokens omega_tokens interval_tokens".split()
        names += ["time_tokens", "time_scale", "guidance"]
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _add(prefix, embedding):
    """Learned tokens (n, D) plus one embedding (B, D) each: (B, n, D)."""
    prefix = prefix[None]  # in half precision under a mixed policy
    return prefix + ops.cast(ops.expand_dims(embedding, 1), prefix.dtype)
