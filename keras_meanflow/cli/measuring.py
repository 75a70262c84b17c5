"""The options that `evaluate` and `statistics` share: features, and how images are read."""

import functools
from collections.abc import Callable

import click

from keras_meanflow.cli.options import SIDE

OPTIONS = (
    click.option("--protocol", help="Name of a protocol, or your .json file."),
    click.option("--features", help="Instead of --protocol: lenet, inception, dinov2-l, "
                 "squeezenet, or a name of your choice for the network in --weights FILE.keras."),
    click.option("--resize", help="With --features: none, 'Bicubic 28', 'LegacyBilinear 64', ..."),
    click.option("--weights", type=click.Path(), help="File of the network; default: the cache."),
    click.option("--fetch", is_flag=True, help="Download published weights that are not cached."),
    click.option("--image-size", type=SIDE, help="Side to crop a folder's images to."),
    click.option("--channels", type=click.IntRange(1), help="Of a folder's images; default 3."),
)  # fmt: skip
NETWORK = ("protocol", "features", "resize", "weights", "fetch")
FOLDER = ("image_size", "channels")


def measuring(command: Callable) -> Callable:
    """Adds the options; the command gets them as two dicts of arguments.

    These are `network`, for `open_protocol`, and `folder`, for `Images` (given options only).
    """

    @functools.wraps(command)
    def wrapped(**options):
        network, folder = (
            {name: options.pop(name) for name in names} for names in (NETWORK, FOLDER)
        )
        given = {name: value for name, value in folder.items() if value is not None}
        return command(network=network, folder=given, **options)

    for option in reversed(OPTIONS):
        wrapped = option(wrapped)
    return wrapped
