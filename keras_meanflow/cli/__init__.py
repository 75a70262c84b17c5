"""The command line, `keras-meanflow`: each file holds one or two commands.

The commands choose the backend first; so they import Keras inside their functions.
"""

import click

from keras_meanflow.cli.bench import bench
from keras_meanflow.cli.convert import card, convert
from keras_meanflow.cli.encode import encode
from keras_meanflow.cli.enhance import enhance
from keras_meanflow.cli.evaluate import evaluate
from keras_meanflow.cli.rae import rae
from keras_meanflow.cli.reflow import reflow
from keras_meanflow.cli.sample import export, sample
from keras_meanflow.cli.statistics import statistics
from keras_meanflow.cli.study import study
from keras_meanflow.cli.train import methods_command, tasks_command, train


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keras_meanflow")
def main():
    """Train MeanFlow models, and use them: one network that generates in one step."""


TRAINING = (tasks_command, methods_command, rae, encode, train, study, bench)
TRAINED = (sample, enhance, evaluate, statistics, reflow, export, convert, card)
for command in TRAINING + TRAINED:
    main.add_command(command)
