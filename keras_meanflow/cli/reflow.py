"""`keras-meanflow reflow`."""

import click

from keras_meanflow.cli.backend import (
    backend_option,
    one_line_errors,
    open_named,
    verbose_option,
)
from keras_meanflow.cli.options import labels_of, worker_of

SOLVERS = ("heun", "euler", "ab2")


@click.command()
@click.argument("run_dir", metavar="RUN")
@click.argument("out", type=click.Path())
@click.option("-n", "count", type=click.IntRange(1), default=10_000, show_default=True,
              help="Number of pairs.")  # fmt: skip
@click.option("--labels", help="Classes, as in 3 or 0,1,2 or 0-9; default all of them in turn.")
@click.option("--sampler", "name", type=click.Choice(SOLVERS), default="heun", show_default=True)
@click.option("--steps", type=click.IntRange(1), default=32, show_default=True)
@click.option("--seed", type=click.IntRange(0), help="Of the noise; default 1000000.")
@click.option("--guidance-scale", type=float, help="For teachers without guidance in training.")
@click.option("--average/--raw", default=True, help="Averaged or raw weights.")
@click.option("--shard-size", type=click.IntRange(1), help="Pairs in a shard; default 4096.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--worker", default="0/1", help="K/N: every N-th shard from the K-th.")
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
    backend,
    verbose,
):
    """Write pairs of noise and the samples of a RUN into the pair store OUT.

    They are the data of a Re-MeanFlow: keras-meanflow train digits_reflow --set data=OUT. The
    same command again goes on where it stopped, or checks what is finished.
    """
    with one_line_errors():
        worker = worker_of(worker)
        opened = open_named(run_dir, backend)
        flow_map = opened.flow_map
        if not average:
            flow_map.average = None
        from keras_meanflow import samplers
        from keras_meanflow.data import reflow

        kind = {"heun": samplers.Heun, "euler": samplers.Euler, "ab2": samplers.AdamsBashforth2}
        store = reflow.reflow(
            flow_map,
            out,
            labels_of(labels, count, flow_map.network.num_classes),
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
            click.echo(f"This worker's shards are in {out}; others are still to come.")
            return
        size = "x".join(map(str, store.shape))
        mean = store.distances.mean()
        click.echo(
            f"{out} holds {len(store):,} pairs of {size}, checksums verified; their mean distance "
            f"is {mean:.4g}."
        )
