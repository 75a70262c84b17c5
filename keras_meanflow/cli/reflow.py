"""`keras-meanflow reflow`."""

import click

from keras_meanflow.cli.backend import (
    backend_option,
    open_named,
    verbose_option,
)
from keras_meanflow.cli.errors import one_line_errors
from keras_meanflow.cli.options import OUT_FOLDER, Number, labels_of, worker_of
from keras_meanflow.cli.recipes import recipe_option

SOLVERS = ("heun", "euler", "ab2")


@click.command()
@click.argument("run_dir", metavar="RUN")
@click.argument("out", type=OUT_FOLDER)
@click.option("-n", "count", type=click.IntRange(1), default=10_000, show_default=True,
              help="Number of pairs.")  # fmt: skip
@click.option("--labels", help="Classes, as in 3 or 0,1,2 or 0-9, or names; default all, in turn.")
@click.option(
    "--sampler",
    "name",
    type=click.Choice(SOLVERS),
    default="heun",
    show_default=True,
    help="ODE solver.",
)
@click.option(
    "--steps", type=click.IntRange(1), default=32, show_default=True, help="Steps of the solver."
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the noise; default 1000000.")
@click.option("--guidance-scale", type=Number(), help="Only for models trained without guidance.")
@click.option("--average/--raw", default=True, help="Use the averaged or the raw weights.")
@click.option("--shard-size", type=click.IntRange(1), help="Pairs per shard; default 4096.")
@click.option(
    "--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Pairs per batch."
)
@click.option("--worker", default="0/1", help="K/N: make every N-th shard, from shard K on.")
@recipe_option
@backend_option
@verbose_option
def reflow(
    run_dir,
    out,
    count,
    labels,
    name,
    steps,
    seed,
    guidance_scale,
    average,
    shard_size,
    batch_size,
    worker,
    recipes,
    backend,
    verbose,
):
    """Generate pairs of noise and samples, for Re-MeanFlow.

    The pairs of a RUN are written into the pair store OUT. Train on them with keras-meanflow train
    digits --method re_mean_flow --set pair_store=OUT. The same command again continues where it
    stopped; a finished store is checked.
    """
    with one_line_errors():
        worker = worker_of(worker)
        opened = open_named(run_dir, backend, recipes)
        flow_map = opened.flow_map
        if not average:
            flow_map.average = None
        from keras_meanflow import samplers
        from keras_meanflow.data import reflow

        kind = {"heun": samplers.Heun, "euler": samplers.Euler, "ab2": samplers.AdamsBashforth2}
        store = reflow.reflow(
            flow_map,
            out,
            labels_of(labels, count, flow_map.network.num_classes, flow_map.class_names),
            sampler=kind[name](steps=steps),
            seed=reflow.SEED if seed is None else seed,
            guidance_scale=guidance_scale,
            codec=opened.codec,
            shard_size=shard_size,
            batch_size=batch_size,
            worker=worker,
            verbose=int(verbose),
        )
        if store is None:
            click.echo(f"The shards of this worker are in {out}; other shards are still missing.")
            return
        size = "x".join(map(str, store.shape))
        mean = store.distances.mean()
        click.echo(
            f"{out} holds {len(store):,} pairs of {size}, checksums verified; their mean distance "
            f"is {mean:.4g}."
        )
