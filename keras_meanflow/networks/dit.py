"""DiT: the diffusion transformer with adaLN-Zero conditioning, on (t, r)."""

from typing import Any, Self

import keras
import numpy as np
from keras import layers, ops

from keras_meanflow.backend import Tensor, constant, rematerialised
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.networks.layers import (
    TIME_INPUTS,
    DiTBlock,
    TimeEmbedding,
    TokenDense,
    modulate,
    plain_norm,
    sincos_positions,
)
from keras_meanflow.networks.patches import patch_grid, patchify, unpatchify
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes

SIZES = {  # depth, width, heads
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "M": (16, 1024, 16),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)


@register
class DiT(Network):
    """Patches, transformer blocks modulated by `embed(t) + embed(t - r) + embed(label)`, patches.

    The output starts at zero: the last layer and every residual gate are zero-initialised.

    Args:
        image_size: height and width in pixels or latents, an integer or a pair.
        channels: number of channels.
        patch_size: side of a patch; divides the image size.
        width: size of a token.
        depth: number of blocks.
        heads: attention heads; divides the width.
        mlp_ratio: hidden size of a block's MLP over the width.
        num_classes: number of classes, or None for an unconditional network.
        time_inputs: which times are embedded, each by a separate MLP: ("t", "t-r") in the official
            code, ("t", "r"), ("t", "r", "t-r") or ("t-r",); "1-t" for weights whose time is 1 at
            the data.
        time_scale: factor between a time and its sinusoids (see `TimeEmbedding`), or one for each
            time input.
        qk_norm: RMS norm of queries and keys.
        split_depth: None, or the number of first blocks that get t. The other blocks and the last
            layer get r, through the same embedding of one time input. This is Decoupled MeanFlow:
            with r = t it equals the flow model whose weights it was initialised with.
        unused_channels: additional channels of the last layer that `call` drops: the variances of
            published DiT and SiT. They are kept so that a converted file loses nothing.
        frequency_shift: of the sinusoids (see `TimeEmbedding`); 1 in diffusers.
        remat: compute each block again in the backward pass instead of keeping its activations: a
            third more operations, memory for one block and `depth` inputs.

    Raises:
        ValueError: for a patch size that does not divide the image, an unknown time input, or a
            split depth out of range or together with several time inputs.

    Example:
        >>> network = DiT.from_size("S/2", image_size=32, channels=4, num_classes=10)
        >>> u = network(z, r, t, labels)  # z (B, 32, 32, 4), r, t, labels (B,)

    References:
        Peebles and Xie, Scalable Diffusion Models with Transformers (arXiv 2212.09748); Mean Flows
        (arXiv 2505.13447), table 4; Decoupled MeanFlow (arXiv 2510.24474).
    """

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        patch_size: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        num_classes: int | None = None,
        time_inputs: tuple[str, ...] = ("t", "t-r"),
        time_scale: float | tuple[float, ...] = 1.0,
        qk_norm: bool = False,
        split_depth: int | None = None,
        unused_channels: int = 0,
        frequency_shift: float = 0,
        remat: bool = False,
        **kwargs: Any,
    ) -> None:
        height_width, grid = patch_grid(image_size, patch_size)
        check_sizes(channels=channels, width=width, depth=depth, heads=heads)
        super().__init__(data_shape=(*height_width, channels), num_classes=num_classes, **kwargs)
        unknown = [name for name in time_inputs if name not in TIME_INPUTS]
        if unknown or not time_inputs:
            raise ValueError(
                f"time_inputs are some of {sorted(TIME_INPUTS)}. Received: {tuple(time_inputs)}."
            )
        if split_depth is not None and (len(time_inputs) != 1 or not 0 <= split_depth <= depth):
            raise ValueError(
                f"split_depth must be in 0..depth, with one time input, as in time_inputs=('t',). "
                f"Received: {split_depth}, depth {depth}, {tuple(time_inputs)}."
            )
        self.image_size, self.channels, self.patch_size = height_width, channels, patch_size
        self.width, self.depth, self.heads = width, depth, heads
        self.mlp_ratio, self.qk_norm = mlp_ratio, qk_norm
        self.time_scale = time_scale if np.ndim(time_scale) == 0 else tuple(time_scale)
        self.time_inputs = tuple(time_inputs)
        self.split_depth, self.unused_channels = split_depth, unused_channels
        self.frequency_shift, self.remat = frequency_shift, remat
        self.grid = grid
        self._make_layers()

    @classmethod
    def from_size(
        cls, size: str, *, image_size: int | tuple[int, int], channels: int, **kwargs: Any
    ) -> Self:
        """A published size: S, B, M, L or XL and patch 2, 4 or 8, as in "XL/2"."""
        name, _, patch = size.partition("/")
        if name not in SIZES or patch not in map(str, PATCHES):
            known = [f"{name}/{patch}" for name in SIZES for patch in PATCHES]
            raise ValueError(f"size is one of {', '.join(known)}. Received: {size!r}.")
        depth, width, heads = SIZES[name]
        return cls(
            image_size=image_size,
            channels=channels,
            patch_size=int(patch),
            width=width,
            depth=depth,
            heads=heads,
            **kwargs,
        )

    def _make_layers(self):
        width, policy = self.width, self.dtype_policy
        patch = self.patch_size**2 * self.channels
        self.patches = TokenDense(width, dtype=policy, name="patches")
        self.patches.build((None, patch))
        self.times = [
            TimeEmbedding(width, time_scale=scale, frequency_shift=self.frequency_shift)
            for scale in np.broadcast_to(self.time_scale, len(self.time_inputs)).tolist()
        ]
        for embedding in self.times:
            embedding.build((None,))
        if self.conditional:
            init = keras.initializers.RandomNormal(stddev=0.02)
            self.labels = layers.Embedding(
                self.num_classes + 1, width, embeddings_initializer=init, dtype="float32"
            )
            self.labels.build((None,))
        self.blocks = []
        for _ in range(self.depth):
            block = DiTBlock(
                self.heads, mlp_ratio=self.mlp_ratio, qk_norm=self.qk_norm, dtype=policy
            )
            block.build((None, self.grid[0] * self.grid[1], width))
            self.blocks.append(block)
        self.norm = plain_norm(policy)
        self.norm.build((None, None, width))
        self.modulation = layers.Dense(2 * width, kernel_initializer="zeros", dtype=policy)
        self.modulation.build((None, width))
        # The last layer is float32, because targets and losses are.
        made = self.patch_size**2 * (self.channels + self.unused_channels)
        self.out = TokenDense(made, kernel_initializer="zeros", dtype="float32", name="out")
        self.out.build((None, width))
        self.built = True

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity, float32 of the shape of `z`."""
        positions = sincos_positions(*self.grid, self.width)
        patches = patchify(z, self.grid, self.patch_size)
        x = self.patches(ops.cast(patches, self.compute_dtype))
        x = x + ops.cast(constant(positions, x), x.dtype)  # (B, N, D)
        c = ops.cast(self._condition(r, t, condition), self.compute_dtype)  # (B, D)
        for depth, block in enumerate(self.blocks):
            if depth == self.split_depth:
                c = self._late_condition(r, condition)
            x = rematerialised(block, x, c) if self.remat else block(x, c)
        if self.split_depth == self.depth:
            c = self._late_condition(r, condition)
        shift, scale = ops.split(self.modulation(ops.silu(c)), 2, axis=1)
        out = self.out(modulate(self.norm(x), shift, scale))
        return unpatchify(out, self.grid, self.patch_size, self.unused_channels)

    def _condition(self, r, t, condition):
        c = sum(
            embedding(TIME_INPUTS[name](r, t))
            for name, embedding in zip(self.time_inputs, self.times, strict=True)
        )
        return c + self.labels(condition) if self.conditional else c

    def _late_condition(self, r, condition):
        """The condition of the blocks from `split_depth` on: with r in the place of t."""
        return ops.cast(self._condition(r, r, condition), self.compute_dtype)

    def get_config(self) -> dict:
        """The arguments."""
        names = "image_size channels patch_size width depth heads mlp_ratio num_classes".split()
        names += "time_inputs time_scale qk_norm split_depth unused_channels".split()
        names += ["frequency_shift", "remat"]
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
