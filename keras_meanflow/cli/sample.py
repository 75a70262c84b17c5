"""`keras-meanflow sample` and `export`."""

from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    open_named,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors, traceback_option
from keras_meanflow.cli.options import OUT, OUT_FILE, Number, labels_of
from keras_meanflow.cli.recipes import recipe_option

SAMPLERS = ("jump", "restart", "euler", "heun", "ab2", "fastflow")
_HELP = (
    "jump and restart use the average velocity u; the others solve the ODE of the velocity "
    "u(z, t, t)."
)


@click.command()
@click.argument("run_dir", metavar="RUN")
@click.option("--labels", help="Classes, as in 3 or 0,1,2 or 0-9, or names; default all, in turn.")
@click.option(
    "-n", "count", type=click.IntRange(1), default=100, show_default=True, help="Number of samples."
)
@click.option(
    "--sampler", "name", type=click.Choice(SAMPLERS), default="jump", show_default=True, help=_HELP
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Steps of the sampler; default jump 1, restart 2, others 50.",
)
@click.option(
    "--shift",
    type=Number(0, min_open=True),
    help="Shift s of the times, s t / (1 + (s - 1) t); not for fastflow.",
)
@click.option(
    "--frozen", is_flag=True, help="Use fastflow as learned so far, without learning more."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the initial noise.",
)
@click.option("--average/--raw", default=True, help="Use the averaged or the raw weights.")
@click.option("--guidance-scale", type=Number(), help="Only for models trained without guidance.")
@click.option("--columns", type=click.IntRange(1), help="Columns of the picture.")
@click.option("--out", type=OUT_FILE, help="Picture to write; default RUN/generated.png.")
@click.option("--npz", is_flag=True, help="Also write the samples, as .npz next to the picture.")
@recipe_option
@backend_option
@verbose_option
def sample(
    run_dir,
    labels,
    count,
    name,
    steps,
    shift,
    frozen,
    seed,
    average,
    guidance_scale,
    columns,
    out,
    npz,
    recipes,
    backend,
    verbose,
):
    """Draw samples with a model and write a picture of them.

    RUN is the directory of a run, a preset folder, the name of a known checkpoint, or hf://...
    """
    with one_line_errors():
        picture = _picture(out, run_dir)
        opened = open_named(run_dir, backend, recipes)
        flow_map, codec = opened.flow_map, opened.codec
        if not average:
            flow_map.average = None
        labels = labels_of(labels, count, flow_map.network.num_classes, flow_map.class_names)
        sampler, finish = _sampler(name, steps, shift, frozen, Path(run_dir), guidance_scale)
        samples = flow_map.generate(
            labels,
            sampler=sampler,
            seed=seed,
            guidance_scale=guidance_scale,
            verbose="auto" if verbose else 0,
        )
        finish()
        samples = samples if codec is None else codec.decode(samples)
        _write(samples, labels, picture, columns, npz)


def _sampler(name, steps, shift, frozen, run_dir, guidance_scale):
    """The sampler, and a function to call after sampling."""
    from keras_meanflow import samplers

    if frozen and name != "fastflow":
        raise ValueError(f"--frozen is for --sampler fastflow. Received: --sampler {name}.")
    if shift is not None and name == "fastflow":
        raise ValueError(f"--shift is not for --sampler fastflow. Received: --shift {shift:g}.")
    if name == "fastflow":
        guided = "" if guidance_scale is None else f"-guided-{guidance_scale:g}"
        return _fastflow(samplers, 50 if steps is None else steps, frozen, run_dir, guided)
    kind, default = {
        "jump": (samplers.Jump, 1),
        "restart": (samplers.Restart, 2),
        "euler": (samplers.Euler, 50),
        "heun": (samplers.Heun, 50),
        "ab2": (samplers.AdamsBashforth2, 50),
    }[name]
    steps = default if steps is None else steps
    if shift is None:
        return kind(steps=steps), lambda: None
    return kind(times=samplers.shifted_times(steps, shift)), lambda: None


def _fastflow(samplers, steps, frozen, run_dir, guided):
    """A sampler with the bandits in RUN/fastflow-STEPS.json, or with new ones."""
    from keras_meanflow.files.atomic import write_atomically

    path = run_dir / f"fastflow-{steps}{guided}.json"
    state = samplers.BanditState.load(path) if path.exists() else None
    sampler = samplers.BanditSampler(steps=steps, state=state)
    if frozen:
        sampler = sampler.freeze()
        return sampler, lambda: click.echo(f"{sampler.calls} velocity calls of {steps}, frozen")
    known = len(sampler.state.calls)

    def finish():
        write_atomically(path, sampler.state.save)
        calls = sampler.state.calls[known:]
        click.echo(
            f"{sum(calls) / len(calls):.4g} velocity calls of {steps}, over {len(calls)} batches. "
            f"Learned from {known + len(calls)} so far: {path}"
        )

    return sampler, finish


def _picture(out, run_dir):
    """The path of the picture: in the folder of the run, or else in the working directory."""
    from PIL import Image

    folder = Path(run_dir) if Path(run_dir).is_dir() else Path()
    path = Path(out or folder / "generated.png")
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out is a picture, as in samples.png. Received: {path}.")
    return path


def _write(samples, labels, out, columns, npz):
    import numpy as np

    from keras_meanflow.files.atomic import write_atomically
    from keras_meanflow.pictures.samples import draw_samples

    written = [out]
    picture = draw_samples(samples, columns=columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, picture.save)
    if npz:
        written.append(out.with_suffix(".npz"))
        arrays = {"x": samples} if np.ndim(labels) == 0 else {"x": samples, "y": labels}
        write_atomically(written[1], lambda path: np.savez(path, **arrays))
    click.echo(f"{len(samples)} samples: {', '.join(map(str, written))}")


@click.command()
@click.argument("run_dir", metavar="RUN")
@click.argument("out", type=OUT)
@click.option(
    "--steps", type=click.IntRange(1), default=1, show_default=True, help="Number of jumps."
)
@click.option("--format", help="tf_saved_model, torch, onnx, ...; see keras.Model.export.")
@recipe_option
@backend_option
@traceback_option
def export(run_dir, out, steps, format, recipes, backend):
    """Export the model of a RUN to OUT, for use without this package.

    The exported function maps noise, and a label, to a sample.
    """
    with one_line_errors():
        flow_map = open_named(run_dir, backend, recipes).flow_map
        flow_map.export(out, steps=steps, format=format)
        click.echo(f"The sampler is in {out}.")
