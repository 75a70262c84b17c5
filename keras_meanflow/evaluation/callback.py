"""FID and KID of samples during training."""

from __future__ import annotations

import math
from pathlib import Path

import keras

from keras_meanflow.backend import alone
from keras_meanflow.evaluation.reports import read_reports, write_reports
from keras_meanflow.evaluation.samples import Evaluation


class Evaluate(keras.callbacks.Callback):
    """Measures samples of the averaged weights during training, with an `Evaluation`.

    It measures at the end of an epoch, where another `every_steps` steps are complete, and at the
    end of training. The reports are written to `evaluation-NAME-training.json`, with the name of
    the protocol. The logs get `fid_1` and, where it is measured, `kid_1` for one sampling step,
    `fid_2` for two, and so on; epochs without an evaluation get NaN. Place this callback before
    callbacks that write logs. Training itself does not change.

    Args:
        folder: for the reports; created if absent.
        evaluation: what to measure.
        every_steps: steps between two evaluations, or None for one at the end only.
        last_step: the step at which training ends, if it takes several calls of `fit`; by default
            the end of each `fit`.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: if the evaluation does not fit the model, or the folder has reports of another
            protocol under this name.

    Example:
        >>> flow_map.fit(x, y, epochs=50, callbacks=[Evaluate("run", evaluation), Log("log.csv")])
    """

    def __init__(
        self,
        folder: str | Path,
        evaluation: Evaluation,
        *,
        every_steps: int | None = 1000,
        last_step: int | None = None,
        verbose: int = 0,
    ):
        super().__init__()
        self.evaluation, self.every_steps = evaluation, every_steps
        self.last_step, self.verbose = last_step, verbose
        name = evaluation.protocol.name or "images"
        self.path = Path(folder) / f"evaluation-{name}-training.json"

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Drop the reports of steps that will be repeated."""
        self.evaluation.check(self.model)
        reports, step = read_reports(self.path), self.model.batches_done
        self.reports = [report for report in reports if report["model"]["step"] <= step]
        ours = self.evaluation.protocol.to_dict()
        for report in self.reports:
            if report["protocol"] != ours:
                raise ValueError(
                    f"A file holds one protocol only. {self.path} has the protocol "
                    f"{report['protocol']}, this evaluation has {ours}: give it another name."
                )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measure if an evaluation is due; add the numbers to the logs."""
        step = self.model.batches_done
        done = max((report["model"]["step"] for report in self.reports), default=0)
        last = epoch + 1 == self.params["epochs"] if self.last_step is None else False
        last = last or step == self.last_step
        full = self.every_steps is not None and step // self.every_steps > done // self.every_steps
        if step != done and (full or last):
            with alone():
                self.reports += self.evaluation(self.model, verbose=self.verbose)
            write_reports(self.path, self.reports)
        if logs is not None:
            logs.update(self.columns(step))

    def columns(self, step: int) -> dict[str, float]:
        """The numbers of a step for the log; NaN if the step was not measured."""
        names = ("fid", "kid") if self.evaluation.has_pairs else ("fid",)
        columns = {f"{name}_{s}": math.nan for s in self.evaluation.steps for name in names}
        for report in self.reports:
            if report["model"]["step"] == step:
                columns |= {f"{name}_{report['steps']}": report[name]["value"] for name in names}
        return columns
