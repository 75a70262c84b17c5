"""`keras-meanflow statistics`."""

from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    start,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.measuring import measuring
from keras_meanflow.cli.options import OUT_FILE


@click.command()
@click.argument("data")
@click.argument("out", type=OUT_FILE)
@measuring
@click.option("--name", help="Name of the reference; default: the protocol's, or that of DATA.")
@click.option(
    "--pairwise",
    type=click.IntRange(0),
    default=10_000,
    show_default=True,
    help="Features to store for KID, precision, recall, density and coverage.",
)
@backend_option
@verbose_option
def statistics(data, out, network, folder, name, pairwise, backend, verbose):
    """Write the reference statistics of DATA to OUT, an .npz file.

    DATA is a folder of images, an .npz file (x_train, x or arr_0), another split of such a file
    (mnist.npz:test), or digits, digits:train, digits:test. Some features are stored next to OUT,
    in a .features.f32 file.
    """
    with one_line_errors():
        start(choose_backend(backend))
        from keras_meanflow.evaluation import make_reference
        from keras_meanflow.evaluation.images import Images
        from keras_meanflow.evaluation.named import open_protocol
        from keras_meanflow.evaluation.samples import with_progress

        if Path(out).suffix != ".npz":
            raise ValueError(f"Reference statistics are an .npz file. Received {out}.")
        images = Images(data, **folder)
        protocol, extract = open_protocol(**network)
        name = name or images.named(protocol.reference)
        batches = with_progress(images.batches(), len(images), verbose)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        made = make_reference(batches, extract, out, name=name, pairwise=pairwise)
        click.echo(
            f"{out}: {name}, {made.count:,} images of {data}, {made.mean.size} features "
            f"{extract.name} (resize: {extract.resize})."
        )
