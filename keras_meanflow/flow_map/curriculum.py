"""The curriculum callback: values that change with training progress, set, timed and logged."""

import dataclasses
import difflib

import keras
from keras import ops

from keras_meanflow.backend import local
from keras_meanflow.parts.easy_first import EasyFirst, Plateau
from keras_meanflow.parts.schedules import Power, scheduled_values
from keras_meanflow.parts.weightings import MinSNRVelocity, ProgressiveGap


class Curriculum(keras.callbacks.Callback):
    """Reshapes how (t, r) are drawn and how rows are weighted as training goes.

    It puts schedules over progress p in [0, 1] into the objective and takes the horizon from this
    `fit`; a model with a fixed `horizon` keeps it. Schedules are read inside the compiled step,
    from the saved step counter: they are exact on every step, need no retrace, and go on where a
    saved run stopped.

    It adds to the logs, and so to `log.csv` and TensorBoard, `progress`, every scheduled value,
    and what the objective logs of its state, such as `stage`: the values of the next step. Place
    it before callbacks that write logs. Every `fit` has one; pass it only to set schedules.

    Args:
        schedules: `{"times.mean": Line(start=-2.0, end=-0.4), ...}`: values of the objective by
            path, numbers or schedules. Also whole parts, `{"beta": ProgressiveGap()}`.

    Raises:
        ValueError: for a path that the objective does not have, or schedules without a known
            length of training.

    Example:
        >>> curriculum = Curriculum({"times.fraction_r_equals_t": Line(start=1.0, end=0.5)})
        >>> flow_map.fit(x, y, epochs=10, callbacks=[curriculum])

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065).
    """

    def __init__(self, schedules=None):
        super().__init__()
        self.schedules = dict(schedules or {})

    def changed(self, objective):
        """The objective with the schedules in it."""
        for path, value in self.schedules.items():
            objective = _replaced(objective, path.split("."), value, path)
        return objective

    def apply(self, flow_map):
        """Put the schedules into a model's objective, as `fit` does first of all."""
        flow_map.set_objective(self.changed(flow_map.objective))

    def on_train_begin(self, logs=None):
        """Set `start` and `horizon`."""
        model, steps = self.model, self.params.get("steps")
        if model.fixed_horizon is not None:
            return
        if steps is None:
            if scheduled_values(model.objective):
                raise ValueError(
                    "Scheduled values need the length of training. Received data of unknown "
                    "length: give fit(steps_per_epoch=...) or FlowMap(horizon=...)."
                )
            return
        model.start.assign(model.batches_done // model.accumulation)
        model.horizon.assign(self.params["epochs"] * steps // model.accumulation)

    def on_epoch_end(self, epoch, logs=None):
        """Add the present values to the logs."""
        if logs is not None:
            logs.update(self.values())

    def values(self):
        """The present progress, scheduled values and stage by name; nothing if nothing moves."""
        model, progress = self.model, self.model.progress
        now = {path: s(progress) for path, s in scheduled_values(model.objective).items()}
        for name, variable in model.objective.state.items():
            if variable.logged:
                now[name] = model.state[name].value
        if now:
            now = {"progress": progress, **now}
        return {name: ops.convert_to_numpy(local(value)).item() for name, value in now.items()}


def improved_training(objective, *, gamma=5.0, exponent=1.0, stages=None, patience=200):
    """The scheme of the paper as a `Curriculum`: velocity first, then short to long intervals.

    Args:
        objective: the `MeanFlow` that it is for, whose logit-normal times it keeps.
        gamma: of `MinSNRVelocity` on rows with r = t; None for no weight.
        exponent: k of `ProgressiveGap`'s `s = 1 - p^k` on rows with r < t; None for no weight.
        stages: of `EasyFirst` in the place of the objective's times; None for all times at once.
        patience: steps without improvement before the next stage.

    Example:
        >>> curriculum = improved_training(flow_map.objective)  # MinSNR and beta: DiT-B/4's
        >>> curriculum = improved_training(flow_map.objective, gamma=None, stages=20)  # L, XL

    References:
        Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065), Eq. 8, 9.
    """
    parts = {}
    if gamma is not None:
        parts["alpha"] = MinSNRVelocity(gamma=gamma)
    if exponent is not None:
        parts["beta"] = ProgressiveGap(s=Power(start=1.0, end=0.0, exponent=exponent))
    if stages is not None:
        parts["times"] = EasyFirst(
            mean=objective.times.mean,
            std=objective.times.std,
            fraction_r_equals_t=objective.times.fraction_r_equals_t,
            pacing=Plateau(stages=stages, patience=patience),
        )
    return Curriculum(parts)


def _replaced(part, names, value, path):
    """A part with the value at the end of a path replaced."""
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
