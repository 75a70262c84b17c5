"""`keras-meanflow evaluate`."""

import itertools
import shlex
import sys
from pathlib import Path

import click

from keras_meanflow.cli.backend import (
    backend_option,
    choose_backend,
    open_named,
    start,
    verbose_option,
)
from keras_meanflow.cli.enhance import evaluate_speech, is_speech
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.measuring import measuring
from keras_meanflow.cli.options import OUT_FILE, Number
from keras_meanflow.cli.recipes import import_recipes, recipe_option

LABELS, ROUNDINGS = ("balanced", "random", "none"), ("nearest", "down")


@click.command()
@click.argument("run_dir", metavar="[RUN]", required=False)
@click.option("--images", help="Evaluate these images instead of samples of a RUN.")
@click.option("--self-check", is_flag=True, help="Also compare two halves of the reference data.")
@click.option("--steps", default="1", show_default=True, help="Numbers of jumps, as in 1 or 1,2,4.")
@measuring
@click.option("--reference", help="Reference: statistics (.npz), or data.")
@click.option(
    "--samples", type=click.IntRange(1), help="Number of samples; default: the protocol's."
)
@click.option(
    "--labels", type=click.Choice(LABELS), help="Labels of the samples; default: the protocol's."
)
@click.option(
    "--rounding", type=click.Choice(ROUNDINGS), help="Rounding to 8 bits; default: the protocol's."
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
@click.option(
    "--attenuation-limit",
    type=Number(0.0),
    metavar="DB",
    help="For speech: see `enhance`.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=250,
    show_default=True,
    help="Samples per batch.",
)
@click.option("--out", type=OUT_FILE, help="JSON file; default RUN/evaluation-PROTOCOL.json.")
@recipe_option
@backend_option
@verbose_option
def evaluate(
    run_dir,
    images,
    self_check,
    steps,
    network,
    folder,
    reference,
    samples,
    labels,
    rounding,
    seed,
    average,
    guidance_scale,
    attenuation_limit,
    batch_size,
    out,
    recipes,
    backend,
    verbose,
):
    """Evaluate samples of a RUN: FID, KID, precision, recall, ...

    Use a named protocol (--protocol digits-lenet), or choose the features (--features lenet
    --weights FILE --samples 10000). The reference is a file from `keras-meanflow statistics`, or
    data: a folder, FILE.npz, FILE.npz:test, digits:test.

    --images evaluates other images instead of samples. --self-check compares one half of the
    reference data with the other half: this is the score of a perfect model.

    For a RUN on speech, --reference is a folder with clean/ and noisy/. The scores are SI-SDR,
    ESTOI and PESQ, for each file and in total, for the enhanced and for the noisy speech.
    """
    with one_line_errors():
        _check_subject(run_dir, images, self_check, reference)
        steps = _steps(steps)
        opened = _opened(run_dir, backend, recipes)
        flow_map, codec = (opened.flow_map, opened.codec) if opened else (None, None)
        if flow_map is not None:
            flow_map.average = flow_map.average if average else None
            if is_speech(codec):
                if out is None and Path(run_dir).is_dir():
                    out = Path(run_dir) / "evaluation-speech.json"
                settings = {"steps": steps, "seed": seed, "samples": samples, "out": out}
                settings |= {"attenuation_limit": attenuation_limit, "verbose": verbose}
                evaluate_speech(flow_map, codec, reference, **settings)
                return
            folder = {**_image_shape(flow_map, codec), **folder}
        images = images and _images(images, folder)
        changes = {"samples": samples, "labels": labels, "rounding": rounding}
        changes = {name: value for name, value in changes.items() if value is not None}
        if network["features"]:
            changes = {**_defaults(flow_map, images, reference, folder), **changes}
        bench = _Bench(network, changes, reference, folder, verbose)
        sampling = {
            "seed": seed,
            "guidance_scale": guidance_scale,
            "batch_size": batch_size,
            "decode": codec and codec.decode,
        }
        reports = itertools.chain(
            bench.self_check() if self_check else (),
            bench.images(images) if images else (),
            bench.samples(flow_map, steps=steps, **sampling) if run_dir else (),
        )
        if out is None and run_dir and Path(run_dir).is_dir():
            out = Path(run_dir) / f"evaluation-{bench.protocol.name}.json"
        _show(reports, out and Path(out))


def _opened(run_dir, backend, recipes):
    """The model of a run, if there is one to evaluate."""
    if run_dir:
        return open_named(run_dir, backend, recipes)
    start(choose_backend(backend))
    import_recipes(recipes)
    return None


def _check_subject(run_dir, images, self_check, reference):
    from keras_meanflow.metrics.reference import is_reference

    if run_dir and images:
        raise ValueError(f"Evaluate a RUN or --images, not both. Received: {run_dir} and {images}.")
    if not (run_dir or images or self_check):
        raise ValueError("Name what to evaluate: a RUN, --images DATA, or --self-check.")
    if self_check and reference and is_reference(reference):
        raise ValueError(
            f"--self-check halves data. Received the statistics {reference}: give the reference "
            "as images."
        )


def _steps(text):
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--steps are numbers from 1 up, as in 1 or 1,2,4. Received: {text!r}.")
    return tuple(dict.fromkeys(map(int, parts)))


def _image_shape(flow_map, codec):
    """The size to crop a folder's images to: the shape of the samples, in pixels."""
    shape = flow_map.network.data_shape
    if codec is not None:
        return {"image_size": shape[0] * codec.factor, "channels": codec.depth}
    return {"image_size": shape[0], "channels": shape[2]} if len(shape) == 3 else {}


def _images(data, folder):
    from keras_meanflow.evaluation.images import Images

    return Images(data, **folder)


def _defaults(flow_map, images, reference, folder):
    """The fields of the protocol that --features does not set."""
    from keras_meanflow.metrics.reference import reference_name

    if reference is None:
        raise ValueError("--features need a --reference: statistics (.npz) or data.")
    named = {"reference": reference_name(reference)}
    if flow_map is not None:
        return named if flow_map.network.conditional else {**named, "labels": "none"}
    count = len(images) if images else len(_images(reference, folder)) // 2
    return {**named, "labels": "none", "samples": count}


class _Bench:
    """A protocol, its network and its reference, to evaluate one subject after the other."""

    def __init__(self, network, changes, reference, folder, verbose):
        from keras_meanflow.evaluation.named import open_protocol

        self.protocol, self.extract = open_protocol(**network, **changes)
        self.source, self.folder, self.verbose = reference, folder, verbose
        if reference is None and not self.protocol.reference.startswith("digits"):
            raise ValueError(
                f"{self.protocol.name} compares with {self.protocol.reference!r}: give its "
                "statistics or its data with --reference."
            )
        self.source = reference or self.protocol.reference

    def self_check(self):
        """One half of the reference's data against the other."""
        from keras_meanflow.evaluation import self_check
        from keras_meanflow.evaluation.samples import with_progress

        images, samples = _images(self.source, self.folder), self.protocol.samples
        if len(images) < 2 * samples:
            raise ValueError(
                "Half of the reference must hold as many images as are measured. Received "
                f"{samples} samples and {len(images)} images: give fewer with --samples."
            )
        batches = with_progress(images.batches(), len(images), self.verbose)
        report = self_check(batches, self.extract, samples=samples)
        yield {"subject": "self-check", "protocol": self.protocol.to_dict(), **report}

    def images(self, images):
        """The images instead of samples."""
        from keras_meanflow.evaluation import evaluate_images
        from keras_meanflow.evaluation.samples import with_progress

        if len(images) < self.protocol.samples:
            raise ValueError(
                f"{self.protocol.name} asks for {self.protocol.samples} samples. Received "
                f"{len(images)} images: give fewer with --samples."
            )
        reference = self._reference()
        batches = with_progress(images.batches(), self.protocol.samples, self.verbose)
        report = evaluate_images(batches, self.protocol, reference, self.extract)
        yield {"subject": images.name, **report}

    def samples(self, flow_map, **settings):
        """A model's samples, for each number of steps."""
        from keras_meanflow.evaluation.samples import Evaluation

        evaluation = Evaluation(
            protocol=self.protocol, extract=self.extract, reference=self._reference(), **settings
        )
        for steps in evaluation.steps:
            yield evaluation.measure(flow_map, steps, verbose=self.verbose)

    def _reference(self):
        from keras_meanflow.evaluation.samples import open_reference

        return open_reference(
            self.source,
            self.extract,
            self.protocol.reference,
            verbose=self.verbose,
            **self.folder,
        )


def _show(new, out):
    """Write each report as soon as it is ready, then a picture of samples; print the table."""
    from keras_meanflow.evaluation.reports import (
        merged,
        picture,
        read_reports,
        table,
        write_reports,
    )
    from keras_meanflow.files.atomic import write_atomically
    from keras_meanflow.files.provenance import provenance

    reports = read_reports(out) if out else []
    made = {**provenance(), "command": shlex.join(["keras-meanflow", *sys.argv[1:]])}
    for report in new:
        reports = merged(reports, {**report, "made": made})
        if out:
            write_reports(out, reports)
    click.echo(table(reports))
    written = [out] if out else []
    if out and any(report["subject"] == "samples" for report in reports):
        written.append(out.with_suffix(".png"))
        write_atomically(written[1], picture(reports).save)
    if written:
        click.echo(f"Written: {', '.join(map(str, written))}")
