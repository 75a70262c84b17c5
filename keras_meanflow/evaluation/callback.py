"""Numbers of samples as training goes."""

import math
from pathlib import Path

import keras

from keras_meanflow.backend import alone
from keras_meanflow.evaluation.reports import read_reports, write_reports


class Evaluate(keras.callbacks.Callback):
    """Measures samples of the averaged weights as training goes, by an `Evaluation`.

    It does so at the end of the first epoch in which another `every_steps` are full, and of the
    last one. The reports lie in `evaluation-NAME-training.json`, NAME that of the protocol; the
    logs get `fid_1` and, where it is measured, `kid_1` for one step, and so on, NaN in epochs
    without an evaluation: place it before callbacks that write logs. Training is left as it is.

    Args:
        folder: where the reports go; made if absent.
        evaluation: what to measure.
        every_steps: steps between two evaluations, or None for one at the end only.
        last_step: the step at which training ends, where it takes several calls of `fit`; the end
            of each `fit` by default.
        verbose: 1 for a progress bar.

    Raises:
        ValueError: if the evaluation does not suit the model, or the folder has reports of another
            protocol under this name.

    Example:
        >>> flow_map.fit(x, y, epochs=50, callbacks=[Evaluate("run", evaluation), Log("log.csv")])
    """

    def __init__(self, folder, evaluation, *, every_steps=1000, last_step=None, verbose=0):
        super().__init__()
        self.evaluation, self.every_steps = evaluation, every_steps
        self.last_step, self.verbose = last_step, verbose
        name = evaluation.protocol.name or "images"
        self.path = Path(folder) / f"evaluation-{name}-training.json"

    def on_train_begin(self, logs=None):
        """Drop the reports of steps that will be done again."""
        self.evaluation.check(self.model)
        reports, step = read_reports(self.path), self.model.batches_done
        self.reports = [report for report in reports if report["model"]["step"] <= step]
        ours = self.evaluation.protocol.to_dict()
        for report in self.reports:
            if report["protocol"] != ours:
                raise ValueError(
                    f"Numbers of two protocols do not mix. {self.path} has those of "
                    f"{report['protocol']}, this evaluation is {ours}: name it otherwise."
                )

    def on_epoch_end(self, epoch, logs=None):
        """Measure if it is time; add the numbers to the logs."""
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

    def columns(self, step):
        """The numbers of a step for the log, NaN where it has none."""
        names = ("fid", "kid") if self.evaluation.has_pairs else ("fid",)
        columns = {f"{name}_{s}": math.nan for s in self.evaluation.steps for name in names}
        for report in self.reports:
            if report["model"]["step"] == step:
                columns |= {f"{name}_{report['steps']}": report[name]["value"] for name in names}
        return columns
