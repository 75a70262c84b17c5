"""A training: a model, its data, and how long to train."""

import dataclasses
from typing import Any

import numpy as np

from keras_meanflow.backend import process_count, process_index
from keras_meanflow.codecs import Codec
from keras_meanflow.data import Batches, open_source
from keras_meanflow.evaluation.samples import Evaluation
from keras_meanflow.flow_map.generation import as_condition
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.parts.ranges import check_sizes, check_within
from keras_meanflow.parts.schedules import scheduled_values
from keras_meanflow.samplers import Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """A model, its data, and how long to train: a task by a method, ready to run.

    Args:
        flow_map: a compiled `FlowMap`, with `horizon=steps` if its objective has schedules.
        data: a data source, arrays x or (x, y), or the path of an `.npz` file.
        batch_size: rows in a batch.
        steps: number of batches.
        sample_labels: labels of the samples in the pictures, or their number; for
            `FlowMap.generate`.
        seed: seed of the order of the data, and of the noise of the pictures.
        flip: whether to mirror images horizontally with probability 1/2.
        log_every: steps between two rows of the log.
        sample_every: steps between two pictures of samples, or None for one at the end.
        sample_columns: columns of these pictures.
        sampler: draws these samples; default one jump. A flow model needs a solver such as `Heun`.
        reference: data to draw behind samples that are points.
        checkpoint_seconds: the training time, in seconds, that a crash may lose at most.
        codec: decodes samples that are latents; default the codec of the data, if it has one.
        evaluation: what to measure during training, for `log.csv` and a file of reports.
        evaluate_every: steps between two evaluations, or None for one at the end.

    Raises:
        ValueError: for a number that is too small, or a model that is not compiled.
    """

    flow_map: FlowMap
    data: Any
    batch_size: int
    steps: int
    sample_labels: Any
    seed: int = 0
    flip: bool = False
    log_every: int = 100
    sample_every: int | None = 1000
    sample_columns: int | None = None
    sampler: Sampler | None = None
    reference: np.ndarray | None = None
    checkpoint_seconds: float = 60.0
    codec: Codec | None = None
    evaluation: Evaluation | None = None
    evaluate_every: int | None = 1000

    def __post_init__(self):
        for name in ("batch_size", "steps", "log_every", "sample_every", "evaluate_every"):
            check_sizes(**{name: getattr(self, name)})
        check_within("(0, inf)", checkpoint_seconds=self.checkpoint_seconds)
        if not self.flow_map.compiled:
            raise ValueError("A Training's flow_map must be compiled: flow_map.compile(...).")
        object.__setattr__(self, "data", open_source(self.data))
        if getattr(self.data, "class_names", ()):
            self.flow_map.class_names = tuple(self.data.class_names)
        if self.codec is None:
            object.__setattr__(self, "codec", getattr(self.data, "codec", None))
        if self.codec and self.evaluation and self.evaluation.decode is None:
            decoded = dataclasses.replace(self.evaluation, decode=self.codec.decode)
            object.__setattr__(self, "evaluation", decoded)

    def batches(self, first_step: int = 0) -> Batches:
        """The batches from `first_step` on; of each batch, the rows of this process."""
        return Batches(
            self.data,
            self.batch_size,
            self.seed,
            first_step=first_step,
            flip=self.flip,
            part=(process_index(), process_count()),
        )

    def check(self) -> None:
        """Raise a ValueError now if the training would fail later."""
        network = self.flow_map.network
        if self.flow_map.fixed_horizon is None and scheduled_values(self.flow_map.objective):
            raise ValueError(
                "A Training with schedules needs FlowMap(horizon=steps), so that it can stop and "
                "go on. Received: horizon=None."
            )
        self.flow_map.objective.check_batch(self.batch_size // process_count())
        self.flow_map.check_data(*self.batches()[0])
        if self.codec is not None:
            self.codec.check_latents(network.data_shape)
            if hasattr(self.data, "check_codec"):
                self.data.check_codec(self.codec)
        if self.evaluation is not None:
            self.evaluation.check(self.flow_map)
        if not network.conditional:
            return
        network.check_condition(as_condition(self.sample_labels))
        if network.num_classes is None:
            return
        classes = getattr(self.data, "num_classes", None)
        if classes and classes > network.num_classes:
            raise ValueError(
                f"Labels must lie in 0..{network.num_classes - 1}. The data has {classes - 1}."
            )
