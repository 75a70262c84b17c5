"""Pictures of samples during training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_meanflow.backend import alone
from keras_meanflow.files.atomic import write_atomically
from keras_meanflow.pictures.samples import draw_samples
from keras_meanflow.samplers import Sampler


class SampleGrid(keras.callbacks.Callback):
    """Draws samples with the averaged weights during training, and at its end.

    Writes `samples/step-00001000.png` and so on in a folder; the newest is also `samples.png`.

    Args:
        folder: where to write.
        labels: labels, or a number of samples; for `FlowMap.generate`.
        every_steps: steps between two pictures, or None for one at the end only.
        seed: seed of the noise, the same for all pictures.
        columns: columns of the grid.
        sampler: a `Sampler`; default one jump.
        reference: data to draw behind points (n, 2).
        decode: maps samples to images in [-1, 1], for a model of latents.

    Example:
        >>> flow_map.fit(x, y, callbacks=[SampleGrid("run", np.repeat(np.arange(10), 8))])
    """

    def __init__(
        self,
        folder: str | Path,
        labels: Any,
        *,
        every_steps: int | None = 1000,
        seed: int = 0,
        columns: int | None = None,
        sampler: Sampler | None = None,
        reference: np.ndarray | None = None,
        decode: Callable | None = None,
    ):
        super().__init__()
        self.folder, self.labels, self.every_steps = Path(folder), labels, every_steps
        self.seed, self.columns, self.sampler = seed, columns, sampler
        self.reference, self.decode = reference, decode

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Note the step at which this `fit` starts."""
        self._drawn = self.model.batches_done

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Note the step at which the epoch starts."""
        self._first = self.model.batches_done

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Draw if a picture is due."""
        every, step = self.every_steps, self._first + batch
        if every is not None and step // every > self._drawn // every:
            self.draw(step)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Draw, unless this step is drawn already."""
        step = self.model.batches_done
        if step != self._drawn:
            self.draw(step)

    def draw(self, step: int) -> None:
        """Draw now."""
        asked = dict(sampler=self.sampler, seed=self.seed, verbose=0)
        with alone():
            samples = self.model.generate(self.labels, **asked)
            samples = samples if self.decode is None else self.decode(samples)
        picture = draw_samples(samples, self.reference, columns=self.columns)
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        for name in (f"samples/step-{step:08d}.png", "samples.png"):
            write_atomically(self.folder / name, picture.save)
        self._drawn = step
