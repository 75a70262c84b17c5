"""UNet: convolutions on images and spectrograms, at several resolutions."""

from typing import Any, Self

import keras
from keras import layers, ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.networks.resampling import fir_down, fir_up
from keras_meanflow.networks.unet_layers import (
    LogFourierPair,
    PairEmbedding,
    ResidualBlock,
    SinusoidPair,
    conv3x3,
    dense,
    group_norm,
)
from keras_meanflow.parts.part import register
from keras_meanflow.parts.ranges import check_sizes


@register
class UNet(Network):
    """Residual blocks on the way down and up, each level half the size of the one above.

    One class covers the NCSN++ of speech enhancement (`UNet.ncsnpp`) and the SongUNet of CIFAR-10
    (`UNet.song`). The output starts at zero: the last convolutions and every residual branch are
    zero-initialised. The published codes start them at 1e-10 and 1e-5 of their usual size.

    The condition is a dict of up to three parts. `labels` is (B,). `context` is
    (B, H, W, `context_channels`) and is concatenated to the channels of z. `augmentation` is
    (B, `augmentation_size`) and says how the data was altered; leave it out for unaltered data.
    Labels or a context alone may be passed as an array, without a dict.

    Args:
        image_size: height and width, an integer or a pair. They halve at each level. `call` also
            takes other sizes that halve at each level, such as longer spectrograms.
        channels: number of channels.
        width: number of channels of the first convolution.
        multipliers: channels of each level over `width`.
        blocks: residual blocks of each level on the way down; one more on the way up.
        attention_sizes: heights at which attention follows the blocks.
        times: the embedding of (r, t), a `SinusoidPair` (default) or `LogFourierPair`.
        context_channels: channels of the array that conditions the network, or 0.
        num_classes: number of classes, or None without labels.
        augmentation_size: number of values that say how a row was augmented, or 0.
        dropout: share of each block's hidden values that are dropped in training. The mask is a
            function of (seed, step, row): the same for u and its derivative.
        input_skips: add the resampled input to each level on the way down.
        output_skips: sum one output of each level on the way up, each with as many channels as the
            input with its context. A 1x1 convolution of the sum is the output.

    Raises:
        ValueError: for a size that does not halve at each level, or a dropout out of range.

    Example:
        >>> network = UNet.song(image_size=32, channels=3)
        >>> u = network(z, r, t)  # z (B, 32, 32, 3), r, t (B,)

    References:
        Song et al., Score-Based Generative Modeling through SDEs (arXiv 2011.13456); Karras et
        al., EDM (arXiv 2206.00364); MeanFlowSE (arXiv 2509.14858); Gsunshine/py-meanflow.
    """

    reads_by_name = True

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        channels: int,
        width: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention_sizes: tuple[int, ...] = (16,),
        times: PairEmbedding | None = None,
        context_channels: int = 0,
        num_classes: int | None = None,
        augmentation_size: int = 0,
        dropout: float = 0.0,
        input_skips: bool = False,
        output_skips: bool = False,
        **kwargs: Any,
    ) -> None:
        check_sizes(image_size=image_size, channels=channels, width=width)
        check_sizes(multipliers=multipliers)
        height_width = (image_size,) * 2 if isinstance(image_size, int) else tuple(image_size)
        context = {"context": (*height_width, context_channels)} if context_channels else {}
        augmentation = {"augmentation": (augmentation_size,)} if augmentation_size else {}
        super().__init__(
            data_shape=(*height_width, channels),
            num_classes=num_classes,
            condition_shape=context,
            optional_shape=augmentation,
            **kwargs,
        )
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout is a share in [0, 1). Received: {dropout}.")
        step = 2 ** (len(multipliers) - 1)
        if any(side % step for side in height_width):
            raise ValueError(
                f"{len(multipliers)} levels need sides that are multiples of {step}. "
                f"Received: {height_width}."
            )
        self.image_size, self.channels, self.width = height_width, channels, width
        self.multipliers, self.blocks = tuple(multipliers), blocks
        self.attention_sizes = tuple(attention_sizes)
        self.times = SinusoidPair(width) if times is None else times
        self.input_skips, self.output_skips = input_skips, output_skips
        self.context_channels, self.augmentation_size = context_channels, augmentation_size
        self.dropout = dropout
        self._make_layers()

    @classmethod
    def ncsnpp(
        cls,
        *,
        image_size: int | tuple[int, int] = 256,
        channels: int = 2,
        context_channels: int = 2,
        width: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2),
        blocks: int = 2,
        **kwargs: Any,
    ) -> Self:
        """NCSN++ of MeanFlowSE, 65,985,190 parameters; the context is the noisy spectrogram.

        Its u is minus the output of the published network.

        Example:
            >>> network = UNet.ncsnpp(image_size=(256, 256))
            >>> u = network(z, r, t, noisy)  # z and noisy (B, 256, 256, 2)
        """
        return cls(
            image_size=image_size,
            channels=channels,
            context_channels=context_channels,
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            times=LogFourierPair(width),
            input_skips=True,
            output_skips=True,
            **kwargs,
        )

    @classmethod
    def song(
        cls,
        *,
        image_size: int | tuple[int, int] = 32,
        channels: int = 3,
        width: int = 128,
        multipliers: tuple[int, ...] = (2, 2, 2),
        blocks: int = 4,
        augmentation_size: int = 6,
        **kwargs: Any,
    ) -> Self:
        """SongUNet (DDPM++) of py-meanflow's CIFAR-10, 55,932,419 parameters.

        Example:
            >>> network = UNet.song(image_size=32, channels=3)
            >>> u = network(z, r, t, {"augmentation": how})  # z (B, 32, 32, 3), how (B, 6)
        """
        return cls(
            image_size=image_size,
            channels=channels,
            width=width,
            multipliers=multipliers,
            blocks=blocks,
            augmentation_size=augmentation_size,
            **kwargs,
        )

    def _make_layers(self):
        if not self.times.built:
            self.times.build(None)
        if self.num_classes is not None:
            init = keras.initializers.RandomNormal(stddev=0.02)
            self.labels = layers.Embedding(
                self.num_classes + 1, self.times.units, embeddings_initializer=init, dtype="float32"
            )
            self.labels.build((None,))
        if self.augmentation_size:
            self.augmentation = layers.Dense(self.times.units, use_bias=False, dtype="float32")
            self.augmentation.build((None, self.augmentation_size))
        self._streams = 0
        kept = self._make_encoder()
        now = kept[-1]
        self.middle = [self._block(now, now, attention=True), self._block(now, now)]
        self._make_decoder(kept)
        self.built = True

    def _make_encoder(self):
        """Make the way down; returns the channels of the images that the way up takes."""
        inputs, now = self.channels + self.context_channels, self.width
        self.first = conv3x3(inputs, now, self.dtype_policy)
        self.encoder, self.shrink, self.input_taps, kept = [], [], [], [now]
        for level, multiplier in enumerate(self.multipliers):
            if level:
                self.shrink.append(self._block(now, now, resample=fir_down))
                kept.append(now)
                if self.input_skips:
                    self.input_taps.append(dense(inputs, now, self.dtype_policy))
            for _ in range(self.blocks):
                made = self.width * multiplier
                self.encoder.append(self._block(now, made, attention=self._attends(level)))
                now = made
                kept.append(now)
        return kept

    def _make_decoder(self, kept):
        """Make the way up; its last layers are float32, because targets and losses are."""
        inputs, now = self.channels + self.context_channels, kept[-1]
        self.decoder, self.grow, self.output_norms, self.output_taps = [], [], [], []
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            if level < len(self.multipliers) - 1:
                self.grow.append(self._block(now, now, resample=fir_up))
            for index in range(self.blocks + 1):
                made = self.width * multiplier
                attention = index == self.blocks and self._attends(level)
                self.decoder.append(self._block(now + kept.pop(), made, attention=attention))
                now = made
            if self.output_skips or level == 0:
                self.output_norms.append(group_norm(now, self.dtype_policy))
                made = inputs if self.output_skips else self.channels
                self.output_taps.append(conv3x3(now, made, "float32", "zeros"))
        if self.output_skips:
            self.last = dense(inputs, self.channels, "float32")

    def _block(self, inputs, outputs, **kwargs):
        self._streams += 1  # each block has different masks
        block = ResidualBlock(
            outputs, dropout=self.dropout, stream=self._streams, dtype=self.dtype_policy, **kwargs
        )
        block.build((None, None, None, inputs), (None, self.times.units))
        return block

    def _attends(self, level):
        return self.image_size[0] >> level in self.attention_sizes

    def training_condition(self, condition: Condition, keys: Keys, rows: Tensor) -> Condition:
        """The condition with `dropout` (B, 2), a key of the dropout masks for each row."""
        if not self.dropout:
            return condition
        return {**self.by_name(condition), "dropout": keys.row_keys("dropout", rows)}

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The average velocity, float32 of the shape of `z`."""
        given = self.by_name(condition)
        x = ops.concatenate([z, given["context"]], axis=3) if self.context_channels else z
        x = ops.cast(x, self.compute_dtype)
        embedding = ops.cast(ops.silu(self.times(r, t, self._known(given))), self.compute_dtype)
        hints = embedding, given.get("dropout")
        h, kept = self._down(x, hints)
        for block in self.middle:
            h = block(h, *hints)
        return self._up(h, kept, hints)

    def _down(self, x, hints):
        """The deepest image, and the images that the way up takes, in order."""
        encoder = iter(self.encoder)
        h = self.first(x)
        kept = [h]
        for level in range(len(self.multipliers)):
            if level:
                h = self.shrink[level - 1](h, *hints)
                if self.input_skips:
                    x = fir_down(x)
                    h = h + self.input_taps[level - 1](x)
                kept.append(h)
            for _ in range(self.blocks):
                h = next(encoder)(h, *hints)
                kept.append(h)
        return h, kept

    def _up(self, h, kept, hints):
        decoder, total = iter(self.decoder), None
        taps = iter(zip(self.output_norms, self.output_taps, strict=True))
        for level in range(len(self.multipliers)):
            if level:
                h = self.grow[level - 1](h, *hints)
            for _ in range(self.blocks + 1):
                h = next(decoder)(ops.concatenate([h, kept.pop()], axis=3), *hints)
            if self.output_skips:
                norm, tap = next(taps)
                made = tap(ops.silu(norm(h)))
                total = made if total is None else fir_up(total) + made
        if self.output_skips:
            return self.last(total)
        norm, tap = next(taps)
        return tap(ops.silu(norm(h)))

    def _known(self, given):
        """The sum of the embeddings of labels and augmentation, (B, units), or None."""
        known = []
        if self.num_classes is not None:
            known.append(self.labels(given["labels"]))
        if self.augmentation_size and "augmentation" in given:
            known.append(self.augmentation(given["augmentation"]))
        return sum(known[1:], known[0]) if known else None

    def get_config(self) -> dict:
        """The arguments."""
        names = "image_size channels width multipliers blocks attention_sizes context_channels"
        names += " num_classes augmentation_size dropout input_skips output_skips"
        config = {name: getattr(self, name) for name in names.split()}
        return {
            **super().get_config(),
            **config,
            "times": keras.saving.serialize_keras_object(self.times),
        }

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """The network of these arguments."""
        return cls(**{**config, "times": keras.saving.deserialize_keras_object(config["times"])})
