"""The curriculum callback: values that change with training progress, set, timed and logged."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_meanflow.backend import local
from keras_meanflow.objectives import MeanFlow, Objective
from keras_meanflow.parts.easy_first import (
    EasyFirst,
    EasyFirstInterval,
    EasyFirstOnDiagonal,
    Plateau,
)
from keras_meanflow.parts.ranges import check_sizes
from keras_meanflow.parts.schedules import Power, scheduled_values
from keras_meanflow.parts.weightings import (
    MinSNRData,
    MinSNRNoise,
    MinSNRVelocity,
    ProgressiveGap,
)

if TYPE_CHECKING:
    from keras_meanflow.flow_map.model import FlowMap


class Curriculum(keras.callbacks.Callback):
    """Changes how (t, r) are drawn and how rows are weighted during training.

    It puts schedules over progress p in [0, 1] into the objective and takes the horizon from this
    `fit`; a model with a fixed `horizon` keeps it. Schedules are read inside the compiled step,
    from the saved step counter. So they are exact on every step, need no retrace, and continue
    where a saved run stopped.

    It logs `progress`, every scheduled value, and the logged part of the objective's state, such as
    `stage`: the values of the next step. They appear in `log.csv` and TensorBoard too, so place it
    before callbacks that write logs. `fit` adds one by itself; pass it only to set schedules.

    Args:
        schedules: `{"times.mean": Line(start=-2.0, end=-0.4), ...}`: values of the objective by
            path, numbers or schedules; or whole parts, `{"beta": ProgressiveGap()}`.

    Raises:
        ValueError: for a path that the objective does not have, or schedules where the length of
            training is unknown.

    Example:
        >>> curriculum = Curriculum({"times.fraction_r_equals_t": Line(start=1.0, end=0.5)})
        >>> flow_map.fit(x, y, epochs=10, callbacks=[curriculum])

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065).
    """

    def __init__(self, schedules: dict[str, Any] | None = None):
        super().__init__()
        self.schedules = dict(schedules or {})

    def changed(self, objective: Objective) -> Objective:
        """A copy of the objective with the schedules in it."""
        for path, value in self.schedules.items():
            objective = _replaced(objective, path.split("."), value, path)
        return objective

    def apply(self, flow_map: FlowMap) -> None:
        """Put the schedules into a model's objective, as `fit` does at its start."""
        flow_map.set_objective(self.changed(flow_map.objective))

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Check that the length of training is known, if schedules need it."""
        known = self.model.fixed_horizon is not None or self.params.get("steps") is not None
        if not known and scheduled_values(self.model.objective):
            raise ValueError(
                "Scheduled values need the length of training. Received data of unknown "
                "length: give fit(steps_per_epoch=...) or FlowMap(horizon=...)."
            )
        self._started = False

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Set `start` and `horizon` at the first epoch; earlier epochs of the same plan count."""
        model, steps = self.model, self.params.get("steps")
        if self._started or model.fixed_horizon is not None or steps is None:
            return
        self._started = True
        model.start.assign((model.batches_done - epoch * steps) // model.accumulation)
        model.horizon.assign(self.params["epochs"] * steps // model.accumulation)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Add the present values to the logs."""
        if logs is not None:
            logs.update(self.values())

    def values(self) -> dict[str, float]:
        """The present progress, scheduled values and stage by name; empty if nothing changes."""
        model, progress = self.model, self.model.progress
        now = {path: s(progress) for path, s in scheduled_values(model.objective).items()}
        for name, variable in model.objective.state.items():
            if variable.logged:
                now[name] = model.state[name].value
        if now:
            now = {"progress": progress, **now}
        return {name: ops.convert_to_numpy(local(value)).item() for name, value in now.items()}


SNR_WEIGHTS = {"velocity": MinSNRVelocity, "data": MinSNRData, "noise": MinSNRNoise}
EASY_FIRST = {"t": EasyFirst, "diagonal": EasyFirstOnDiagonal, "interval": EasyFirstInterval}


def improved_training(
    objective: MeanFlow,
    *,
    gamma: float | None = 5.0,
    exponent: float | None = 1.0,
    stages: int | None = None,
    patience: int = 200,
    min_snr: str = "velocity",
    easy: str = "t",
) -> Curriculum:
    """The scheme of the paper as a `Curriculum`: velocity first, then short to long intervals.

    Args:
        objective: the `MeanFlow` to train; its logit-normal law of times is kept.
        gamma: of the MinSNR weight on rows with r = t; None for no weight.
        exponent: k of `ProgressiveGap`'s `s = 1 - p^k` on rows with r < t; None for no weight.
        stages: of the law that draws easy times first, which replaces the objective's times; None
            for all times at once.
        patience: steps without improvement before the next stage.
        min_snr: which MinSNR weight: "velocity" (`MinSNRVelocity`), "data" or "noise".
        easy: which law draws easy times first: "t" (`EasyFirst`), "diagonal"
            (`EasyFirstOnDiagonal`) or "interval" (`EasyFirstInterval`).

    Raises:
        ValueError: for another name of `min_snr` or `easy`, or a number out of range.

    Example:
        >>> curriculum = improved_training(flow_map.objective)  # MinSNR and beta: DiT-B/4's
        >>> curriculum = improved_training(flow_map.objective, gamma=None, stages=20)  # L, XL

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), Eq. 8, 9.
    """
    check_sizes(stages=stages, patience=patience)
    weight, law = _named("min_snr", min_snr, SNR_WEIGHTS), _named("easy", easy, EASY_FIRST)
    parts = {}
    if gamma is not None:
        parts["alpha"] = weight(gamma=gamma)
    if exponent is not None:
        parts["beta"] = ProgressiveGap(s=Power(start=1.0, end=0.0, exponent=exponent))
    if stages is not None:
        parts["times"] = law(
            mean=objective.times.mean,
            std=objective.times.std,
            fraction_r_equals_t=objective.times.fraction_r_equals_t,
            pacing=Plateau(stages=stages, patience=patience),
        )
    return Curriculum(parts)


def _named(argument, name, known):
    if name not in known:
        raise ValueError(f"{argument} is one of {', '.join(known)}. Received: {name!r}.")
    return known[name]


def _replaced(part, names, value, path):
    """A copy of a part with another value at the end of a path."""
    name, *rest = names
    fields = getattr(part, "__dataclass_fields__", {})
    if name not in fields:
        near = difflib.get_close_matches(name, fields, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{type(part).__name__} has the values {', '.join(fields) or 'none'}.{hint} "
            f"Received: the path {path!r}."
        )
    if rest:
        value = _replaced(getattr(part, name), rest, value, path)
    return dataclasses.replace(part, **{name: value})
