"""`keras-meanflow enhance`, and `evaluate` for runs on speech."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keras_meanflow.cli.backend import (
    backend_option,
    open_named,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.options import Number
from keras_meanflow.cli.recipes import recipe_option

if TYPE_CHECKING:
    from keras_meanflow.flow_map import FlowMap
    from keras_meanflow.speech.stft import STFT


@click.command()
@click.argument("run_dir", metavar="RUN")
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("target", metavar="OUT", type=click.Path())
@click.option(
    "--steps", type=click.IntRange(1), default=1, show_default=True, help="Number of jumps."
)
@click.option(
    "--overlap",
    type=Number(0, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="Overlap of the pieces, as a share of their length.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=8, show_default=True, help="Pieces per batch."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the initial noise.",
)
@click.option(
    "--temperature",
    type=Number(0),
    default=1.0,
    show_default=True,
    help="Factor on the initial noise.",
)
@click.option(
    "--attenuation-limit",
    type=Number(0.0),
    metavar="DB",
    help="Reduce the noise by at most this much; 20 often sounds better than no limit.",
)
@click.option("--average/--raw", default=True, help="Use the averaged or the raw weights.")
@recipe_option
@backend_option
@verbose_option
def enhance(run_dir, source, target, average, recipes, backend, verbose, **settings):
    """Enhance noisy speech: IN, with the model of a RUN, to OUT.

    IN is a .wav or .flac file with one channel, or a folder of such files and its sub-folders. OUT
    has the sample rate, the length and the sample format of IN. Files of a folder that cannot be
    used are reported and left out. The recordings are never written over.
    """
    with one_line_errors():
        flow_map, codec = _load(run_dir, backend, average, recipes)
        from keras_meanflow.speech.enhancer import Enhancer, enhance_file, enhance_folder

        enhancer = Enhancer(flow_map, codec, **settings)
        progress = _show_progress if verbose else None
        if Path(source).is_dir():
            skipped = enhance_folder(enhancer, source, target, _report, progress)
            for reason in skipped.values():
                click.echo(f"Left out: {reason}", err=True)
            if skipped:
                raise ValueError(f"{len(skipped)} files of {source} are left out, as above.")
        else:
            _report(target, *enhance_file(enhancer, source, target, progress))


def _load(run_dir, backend, average, recipes):
    """The model and the codec of a run on speech."""
    opened = open_named(run_dir, backend, recipes)
    flow_map = opened.flow_map
    flow_map.average = flow_map.average if average else None
    codec = opened.codec
    if not is_speech(codec):
        raise ValueError(f"{run_dir} is not a model of speech: it has no STFT codec.")
    return flow_map, codec


def is_speech(codec: Any) -> bool:
    """Whether the codec of a run makes waveforms."""
    from keras_meanflow.speech.stft import STFT

    return isinstance(codec, STFT)


def _show_progress(done, total):
    click.echo(f"\r{done:.1f} of {total:.1f} s", nl=done >= total, err=True)


def _report(file, seconds, took):
    click.echo(
        f"{file}: {seconds:.1f} s of audio in {took:.1f} s, {took / seconds:.3f} of real time"
    )


def evaluate_speech(
    flow_map: FlowMap,
    codec: STFT,
    reference: str | Path | None,
    *,
    steps: tuple[int, ...],
    seed: int,
    samples: int | None,
    attenuation_limit: float | None,
    out: str | Path | None,
    verbose: bool,
) -> None:
    """Print and write the scores of a model on the pairs clean/ and noisy/ in `reference`."""
    from keras_meanflow.files.atomic import write_text
    from keras_meanflow.files.provenance import provenance
    from keras_meanflow.speech.audio import read_all
    from keras_meanflow.speech.enhancer import Enhancer, score_pairs
    from keras_meanflow.speech.pairs import paired_files

    if reference is None:
        raise ValueError(
            "Speech is evaluated on pairs: give --reference FOLDER with clean/ and noisy/."
        )
    files = paired_files(reference)[:samples]
    pairs, skipped = read_all(files, codec.sample_rate)
    names = [noisy.name for clean, noisy in files if str(clean) not in skipped]
    settings = {"seed": seed, "attenuation_limit": attenuation_limit}
    methods = {
        f"{n} step{'s' if n > 1 else ''}": Enhancer(flow_map, codec, steps=n, **settings)
        for n in steps
    }
    pairs = [(name, *pair) for name, pair in zip(names, pairs, strict=True)]
    report = score_pairs(pairs, codec.sample_rate, methods, verbose=int(verbose))
    click.echo(speech_table(report))
    command = shlex.join(["keras-meanflow", *sys.argv[1:]])
    model = {"step": flow_map.batches_done, "average": flow_map.average, **settings}
    made = {"model": model, "skipped": skipped, "made": {**provenance(), "command": command}}
    if out:
        write_text(Path(out), json.dumps({"scores": report, **made}, indent=1) + "\n")
        click.echo(f"Written: {out}")


def speech_table(report: dict) -> str:
    """The scores as text: lines for each file, and for the total."""
    columns = list(report["noisy"]["total"])
    width = max(len("total"), *(len(file) for file in report["noisy"]["files"]))
    rows = [f"{'':{width}}  {'':10}" + "".join(f"{column:>9}" for column in columns)]
    for file in [*report["noisy"]["files"], "total"]:
        for method, part in report.items():
            scores = part["total"] if file == "total" else part["files"][file]
            numbers = "".join(f"{scores[column]:9.3f}" for column in columns)
            rows.append(f"{file:{width}}  {method:10}{numbers}")
    return "\n".join(rows)
