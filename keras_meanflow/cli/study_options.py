"""Options that several studies share."""

import functools
from collections.abc import Callable, Sequence

import click

from keras_meanflow.cli.backend import backend_option, verbose_option
from keras_meanflow.cli.errors import traceback_option
from keras_meanflow.cli.options import OUT_FOLDER
from keras_meanflow.cli.plans import OPTIONS as PLAN
from keras_meanflow.cli.recipes import recipe_option

TRAINING = (
    *PLAN,
    click.option("--seeds", default="0", show_default=True, help="One run per seed, as in 0,1,2."),
    click.option("--at", default="1", show_default=True, help="Measure after these shares of the "
                 "steps, as in 0.25,0.5,1."),
    click.option("--out", type=OUT_FOLDER, help="Folder for runs, results.csv and results.png; "
                 "default studies/NAME-TASK_METHOD."),
    backend_option,
    verbose_option,
)  # fmt: skip
QUALITY = (
    click.option("--protocol", help="Measure FID under a protocol, such as mnist-lenet; "
                 "default: the energy distance to the data."),
    click.option("--weights", type=click.Path(), help="File of the protocol's feature network."),
    click.option("--reference", help="Reference of the protocol: statistics (.npz) or data."),
    click.option("--samples", type=click.IntRange(2), help="Number of samples; default the "
                 "protocol's, or 2000."),
    click.option("--samplers", help="Samplers, as in jump1,euler32: jumps with u, or Euler steps "
                 "with v."),
)  # fmt: skip
TRUTH = (
    click.option("--gaps", default="0.1,0.3,0.5,0.7,0.9,1", show_default=True, help="Gaps t - r."),
    click.option("--truth", type=click.Choice(["learned", "ring", "mixture"]), default="learned",
                 show_default=True, help="The true v: learned by the model, or known "
                 "in closed form (ring, the task gaussian; mixture, the task "
                 "mixture with its default law)."),
    click.option("--ode-steps", type=click.IntRange(1), default=64, show_default=True,
                 help="Runge-Kutta steps from t to r."),
)  # fmt: skip
RUN = (
    click.option("--images", "count", type=click.IntRange(1), default=512, show_default=True,
                 help="Size of the fixed random subset of the data."),
    click.option("--data", help="Data of the run, if it was moved."),
    click.option("--average/--raw", default=True, help="Use the averaged or the raw weights."),
    recipe_option,
    backend_option,
    traceback_option,
)  # fmt: skip


def with_options(options: Sequence[Callable]) -> Callable[[Callable], Callable]:
    """Adds options to a command, in this order."""

    def decorate(command):
        return functools.reduce(lambda made, option: option(made), reversed(options), command)

    return decorate
