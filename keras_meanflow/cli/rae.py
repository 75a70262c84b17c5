"""`keras-meanflow rae`."""

from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    start,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.options import OUT_FILE, SIDE, Number


@click.command()
@click.argument("source", type=click.Path())
@click.argument("out", type=OUT_FILE)
@click.option("--image-size", type=SIDE, help="Crop a folder's images to this side.")
@click.option(
    "--encoder", type=click.Path(), help="A .keras file that maps images to tokens (n, N, D)."
)
@click.option(
    "--patch-size",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Patch side of the small encoder.",
)
@click.option(
    "--width",
    type=click.IntRange(8),
    default=32,
    show_default=True,
    help="Width of the small encoder.",
)
@click.option(
    "--encoder-steps",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Steps to train the small encoder.",
)
@click.option(
    "--decoder",
    default="64,2,4,256",
    show_default=True,
    help="ViTB, ViTL, ViTXL, or width,depth,heads,mlp.",
)
@click.option(
    "--decoder-steps",
    type=click.IntRange(1),
    default=2000,
    show_default=True,
    help="Steps to train the decoder.",
)
@click.option(
    "--noise",
    type=Number(0.0),
    default=0.8,
    show_default=True,
    help="Largest noise on the tokens in training.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the training."
)
@backend_option
@verbose_option
def rae(
    source,
    out,
    image_size,
    encoder,
    patch_size,
    width,
    encoder_steps,
    decoder,
    decoder_steps,
    noise,
    seed,
    backend,
    verbose,
):
    """Train a representation autoencoder on the images of SOURCE.

    OUT is the .keras file to write. The encoder is your file (--encoder). Without it, a small
    vision transformer is first trained to classify the images. Then the encoder is frozen, the
    statistics of its tokens are measured, and a decoder is trained. Use OUT with `encode --codec
    rae --weights OUT`.
    """
    with one_line_errors():
        if Path(out).suffix != ".keras":
            raise ValueError(f"OUT must end in .keras. Received: {out}.")
        start(choose_backend(backend))
        import keras

        from keras_meanflow.data import open_source
        from keras_meanflow.files.atomic import write_atomically

        keras.utils.set_random_seed(seed)
        images = open_source(source, image_size)
        show = {"seed": seed, "verbose": 2 if verbose else 0}
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        tokens = _encoder(encoder, images, patch_size, width, {"steps": encoder_steps, **show})
        codec = _fitted(tokens, images, decoder, {"steps": decoder_steps, "noise": noise, **show})
        write_atomically(Path(out), codec.save)
        click.echo(f"{out}: {_quality(codec, images)}")


def _encoder(path, images, patch_size, width, fitting):
    """The encoder in a file, or a small one trained to classify the images."""

    from keras_meanflow.codecs.rae_training import fit_encoder, small_vit
    from keras_meanflow.files.saved import load_saved

    if path is not None:
        return load_saved(path)
    side, _, channels = images.shape
    size = {"image_size": side, "channels": channels, "patch_size": patch_size}
    encoder = small_vit(**size, width=width, depth=2, heads=2)
    fit_encoder(encoder, images, **fitting)
    return encoder


def _fitted(tokens, images, decoder, fitting):
    from keras_meanflow.codecs.rae import DECODERS, RAE
    from keras_meanflow.codecs.rae_training import fit_decoder

    if decoder not in DECODERS:
        parts = decoder.split(",")
        if len(parts) != 4 or not all(part.isdigit() for part in parts):
            raise ValueError(
                f"--decoder is {', '.join(DECODERS)} or width,depth,heads,mlp. Received: {decoder}."
            )
        decoder = tuple(map(int, parts))
    half = (0.5,) * images.shape[2]
    sides = {"image_size": images.shape[0], "input_size": tokens.input_shape[1]}
    codec = RAE(tokens, **sides, decoder=decoder, mean=half, deviation=half)
    codec.fit_statistics(images)
    return fit_decoder(codec, images, **fitting)


def _quality(codec, images):
    import numpy as np

    x = images.take(np.arange(min(len(images), 256)))[0]
    z = codec.encode_pixels(x)[:, 0]
    psnr = 10.0 * np.log10(4.0 / np.mean((codec.decode(z) - x) ** 2))
    size = "x".join(map(str, z.shape[1:]))
    return f"latents of {size}, reconstructed with {psnr:.1f} dB"
