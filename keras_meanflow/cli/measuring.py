"""What `evaluate` and `statistics` share: the options that say what is measured with."""

import functools

import click

OPTIONS = (
    click.option("--protocol", help="A named protocol, or your .json file."),
    click.option("--features", help="Without --protocol: lenet, inception, dinov2-l, squeezenet, "
                 "or a name for your own network, whose .keras file is --weights."),
    click.option("--resize", help="With --features: none, 'Bicubic 28', 'LegacyBilinear 64', ..."),
    click.option("--weights", type=click.Path(), help="File of the network; default: the cache."),
    click.option("--fetch", is_flag=True, help="Download published weights that are not cached."),
    click.option("--image-size", type=click.IntRange(1), help="Side to crop a folder's images to."),
    click.option("--channels", type=int, help="Of a folder's images; default 3."),
)  # fmt: skip
NETWORK = ("protocol", "features", "resize", "weights", "fetch")
FOLDER = ("image_size", "channels")


def measuring(command):
    """Adds the options; the command gets `network`, for `open_protocol`, and `folder`, given ones.

    Both are dicts of arguments.
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
