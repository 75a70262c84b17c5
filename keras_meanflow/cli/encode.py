"""`keras-meanflow encode`."""

from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    start,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.options import OUT_FOLDER, SIDE, worker_of

CODECS = ("sd-vae", "taef2", "rae", "identity")
NORMALISATIONS = ("codec", "sd", "imf", "measured", "none")


@click.command()
@click.argument("source", type=click.Path())
@click.argument("out", type=OUT_FOLDER)
@click.option(
    "--codec", type=click.Choice(CODECS), help="Autoencoder; not needed if SOURCE is latents."
)
@click.option("--weights", type=click.Path(), help="Autoencoder weights: published, or .keras.")
@click.option("--image-size", type=SIDE, help="Resize the images to this side, in pixels.")
@click.option(
    "--flips/--no-flips", default=False, help="Store mirror images too; training draws one."
)
@click.option(
    "--normalisation",
    type=click.Choice(NORMALISATIONS),
    default="codec",
    show_default=True,
    help="Scaling of the latents; sd is 0.18215, imf is Improved MeanFlow's.",
)
@click.option("--shard-size", type=click.IntRange(1), help="Images per shard; default 4096.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images per batch."
)
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="For images that cannot be read.",
)
@click.option("--worker", default="0/1", help="K/N: encode every N-th shard, from shard K on.")
@backend_option
@verbose_option
def encode(
    source,
    out,
    codec,
    weights,
    image_size,
    flips,
    normalisation,
    shard_size,
    batch_size,
    on_error,
    worker,
    backend,
    verbose,
):
    """Encode the images of SOURCE into the latent store OUT.

    SOURCE is a folder of images or an .npz file. It can also be latents to copy: a folder of .pt
    files or a .zip of .npy files. The same command again continues where it stopped; a finished
    store is checked.
    """
    with one_line_errors():
        worker = worker_of(worker)
        start(choose_backend(backend))
        from keras_meanflow.data.encoding import encode as encode_source

        source = _open(source, image_size, on_error)
        made = _codec(codec, weights)
        store = encode_source(
            source,
            out,
            made,
            flips=flips,
            shard_size=shard_size,
            batch_size=batch_size,
            worker=worker,
            verbose=int(verbose),
            **_normalisation(normalisation),
        )
        click.echo(_report(store, out))


def _open(source, image_size, on_error):
    """The images, resized to the size asked for, or latents."""
    from keras_meanflow.data import open_source
    from keras_meanflow.data.moments import MomentSource
    from keras_meanflow.data.resized import Resized

    if not Path(source).exists() and source.partition(":")[0] != "digits":
        raise ValueError(f"SOURCE must be a file or folder. There is none at {source}.")
    is_folder = Path(source).is_dir()
    images = open_source(source, image_size if is_folder else None, on_error=on_error)
    latents = isinstance(images, MomentSource)
    if image_size is None or latents or images.shape[:2] == (image_size, image_size):
        return images
    return Resized(images, image_size)


def _codec(name, weights):

    from keras_meanflow import codecs
    from keras_meanflow.files.saved import load_saved

    if name is None:
        return None
    if name == "identity":
        return codecs.Identity()
    if weights is None:
        raise ValueError(f"--codec {name} needs --weights PATH.")
    if not Path(weights).exists():
        raise ValueError(f"--weights must be a file or folder. There is none at {weights}.")
    kind = {"sd-vae": codecs.SDVAE, "taef2": codecs.TAEF2, "rae": codecs.RAE}[name]
    if Path(weights).suffix != ".keras":
        if kind is codecs.RAE:
            raise ValueError(f"--codec rae needs the .keras file of a RAE. Received: {weights}.")
        return kind.load(weights)
    codec = load_saved(weights)
    if not isinstance(codec, kind):
        raise ValueError(f"{weights} must hold {kind.__name__}. Found: {type(codec).__name__}.")
    return codec


def _normalisation(name):
    from keras_meanflow import codecs

    if name in ("codec", "measured"):
        return {"measured": name == "measured"}
    known = {"sd": codecs.SD_SCALE, "imf": codecs.IMF, "none": codecs.Normalisation()}
    return {"normalisation": known[name]}


def _report(store, out):
    if store is None:
        return f"The shards of this worker are in {out}; other shards are still missing."
    size = "x".join(map(str, store.shape))
    copies = " and their mirror images" if store.copies > 1 else ""
    return f"{out} holds {len(store):,} latents of {size}{copies}, checksums verified."
