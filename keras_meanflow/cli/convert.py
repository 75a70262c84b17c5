"""`keras-meanflow convert` and `card`."""

import ast
from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    open_named,
    recorded_backend,
    start,
)
from keras_meanflow.cli.errors import one_line_errors, traceback_option
from keras_meanflow.cli.options import OUT
from keras_meanflow.cli.recipes import import_recipes, recipe_option


@click.command()
@click.argument("source")
@click.argument("target", type=OUT)
@click.option("--from", "source_format", help="Format of SOURCE; default: detected.")
@click.option("--to", "target_format", help="Format of TARGET; default: keras_meanflow.")
@click.option(
    "--average/--raw", default=True, help="Use the averaged or the raw weights of SOURCE."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Argument of the network."
)
@click.option("--interval", is_flag=True, help="Add an input t - r; its weights start at zero.")
@click.option(
    "--decouple",
    type=click.IntRange(0),
    metavar="DEPTH",
    help="The blocks from DEPTH on take r as input.",
)
@click.option(
    "--codec", "codec_name", help="Codec of a preset's latents: sd-vae-ft-ema, ... or FILE.keras."
)
@recipe_option
@backend_option
@traceback_option
def convert(
    source,
    target,
    source_format,
    target_format,
    average,
    settings,
    interval,
    decouple,
    codec_name,
    recipes,
    backend,
):
    """Convert weights from SOURCE to TARGET, in another format.

    SOURCE is a .pt, .pth, .safetensors, .npz or .msgpack file, an orbax folder, a run, the folder
    or name of a preset, or hf://OWNER/REPOSITORY[/FILE]. The extension of TARGET chooses the file
    type; without an extension, TARGET is a preset folder for `from_preset`.

    Formats: dit, sit, dmf, zhuyu, haoyi, meanflow, diffusers, imf, imf-torch, ncsnpp, song,
    keras_meanflow.
    """
    with one_line_errors():
        found = _source(source, source_format, average, _settings(settings), backend, recipes)
        network, objective, codec = found
        from keras_meanflow.formats import fine_tuning
        from keras_meanflow.objectives import MeanFlow

        if interval:
            network, objective = fine_tuning.add_interval(network), MeanFlow()
        if decouple is not None:
            network, objective = fine_tuning.decouple(network, decouple), MeanFlow()
        if Path(target).suffix:
            _write_file(network, target, target_format, codec_name)
        else:
            codec = _named_codec(codec_name) if codec_name else codec
            _write_preset(network, objective, codec, target, target_format)
        click.echo(f"{type(network).__name__} of {network.count_params():,} parameters: {target}")


def _source(source, source_format, average, settings, backend, recipes):
    """The network of a source, its objective and its codec.

    The last two are None for a file of weights, which does not contain them.
    """
    if recorded_backend(source) is not None:
        if source_format or settings:
            raise ValueError(
                f"{source} is a run, whose network is known: leave out --from and --set."
            )
        opened = open_named(source, backend, recipes)
        return opened.network(averaged=average), opened.flow_map.objective, opened.published_codec
    start(choose_backend(backend))
    import_recipes(recipes)
    from keras_meanflow.flow_map import open_model, place_of
    from keras_meanflow.formats.conversion import load_network

    if source_format:
        settings["format"] = source_format
    if place_of(source).kind == "weights":
        return load_network(source, averaged=average, **settings), None, None
    opened = open_model(source, **settings)
    return opened.flow_map.network, opened.flow_map.objective, opened.published_codec


def _named_codec(name):
    """The codec with this name or in this file."""

    from keras_meanflow.files.saved import load_saved
    from keras_meanflow.formats.autoencoders import AUTOENCODERS

    if name in AUTOENCODERS:
        return AUTOENCODERS[name]
    if not Path(name).is_file():
        raise ValueError(
            f"--codec is one of {', '.join(AUTOENCODERS)}, or the codec.keras of a store or run. "
            f"Received: {name!r}."
        )
    return load_saved(name)


def _settings(texts):
    """KEY=VALUE texts as arguments; values are Python literals, or else texts."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes KEY=VALUE, as in image_size=32. Received: {text!r}.")
        try:
            settings[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            settings[name] = value
    return settings


def _write_file(network, target, target_format, codec_name):
    from keras_meanflow.formats.conversion import NATIVE, save_network

    if codec_name is not None:
        raise ValueError(f"--codec is for presets, a TARGET without extension. Received: {target}.")
    save_network(network, target, target_format or NATIVE)


def _write_preset(network, objective, codec, target, target_format):
    from keras_meanflow.flow_map.model import FlowMap
    from keras_meanflow.formats.conversion import NATIVE

    if target_format not in (None, NATIVE):
        raise ValueError(f"TARGET needs an extension, such as .safetensors. Received: {target}.")
    flow_map = FlowMap(network, objective, averages=())
    flow_map.save_to_preset(target, codec=codec, title=Path(target).name)


@click.command()
@click.argument("name")
@traceback_option
def card(name):
    """Show the model card of a known public checkpoint.

    NAME is, for example, imf-b-2 or sit-xl-2.
    """
    with one_line_errors():
        start(choose_backend())
        from keras_meanflow.flow_map.presets import model_card

        click.echo(model_card(name))
