"""Make a run longer: its schedules stretch to the new length, from the present step on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keras import ops

from keras_meanflow.backend import local
from keras_meanflow.flow_map.curriculum import Curriculum
from keras_meanflow.flow_map.model import FlowMap
from keras_meanflow.parts.schedules import scheduled_values
from keras_meanflow.training.settings import read_settings, write_settings


def is_longer(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the knob `steps` of two settings of a run has grown."""
    before, after = (settings["knobs"].get("steps") for settings in (old, new))
    return isinstance(before, int) and isinstance(after, int) and after > before


def stretch(flow_map: FlowMap, run_dir: str | Path) -> str:
    """Stretch the schedules of a restored model to its `fixed_horizon`; says what that does.

    Progress is the share of the new length that is done. It jumps back, and the schedules with it.

    Returns:
        A sentence or two; an empty text if the horizon is the one of the checkpoint.

    Raises:
        ValueError: for a shorter horizon, or a `Schedule` that may not go back so far.
    """
    old, new = _number(flow_map.horizon.value), flow_map.fixed_horizon
    if new in (None, old):
        return ""
    if new < old:
        raise ValueError(
            f"{run_dir} is a run of {old} steps, and runs do not become shorter. Received: {new}. "
            "Name another directory with --run DIR."
        )
    before = _values(flow_map)
    flow_map.horizon.assign(new)
    after = _values(flow_map)
    _check_schedules(flow_map, run_dir, before, after)
    return _sentences(flow_map, before, after)


def _number(value):
    return ops.convert_to_numpy(local(value)).item()


def _values(flow_map):
    """The present progress, scheduled values and stage of a model, by name."""
    curriculum = Curriculum()
    curriculum.set_model(flow_map)
    return {"progress": _number(flow_map.progress), **curriculum.values()}


def _check_schedules(flow_map, run_dir, before, after):
    back = before["progress"], after["progress"]
    for name, schedule in scheduled_values(flow_map.objective).items():
        if not schedule.may_go_back(*back):
            raise ValueError(
                f"{run_dir} cannot become so long: progress would go back from {back[0]:.3g} to "
                f"{back[1]:.3g}, which the schedule of {name} does not allow. Give fewer steps, or "
                "name another directory with --run DIR."
            )


def _sentences(flow_map, before, after):
    moved = [f"{n} {before[n]:.3g} -> {after[n]:.3g}" for n in after if after[n] != before[n]]
    rate = _number(flow_map.optimizer.learning_rate)
    return f"Schedules stretch to the new length: {', '.join(moved)}; learning_rate is {rate:.3g}."


def write_length(run_dir: Path, settings: dict[str, Any], step: int) -> bool:
    """Write the new `steps` into the settings of a run, and at which step it came; if it grew.

    Returns:
        Whether the settings were changed.
    """
    old = read_settings(run_dir)
    if old is None or not is_longer(old, settings):
        return False
    steps = settings["knobs"]["steps"]
    entry = {"step": step, "from": old["knobs"]["steps"], "to": steps}
    knobs = {**old["knobs"], "steps": steps}
    new = {**old, "knobs": knobs, "lengthened": [*old.get("lengthened", []), entry]}
    write_settings(run_dir, new)
    return True
