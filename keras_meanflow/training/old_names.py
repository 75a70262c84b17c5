"""Recipes of version 0.1.0 were a task and a method in one: their new names, until 0.3.0."""

from __future__ import annotations

import re

from keras_meanflow.training.plan import Plan

_SUFFIXES = {
    "": None, "_improved": "progressive_mean_flow", "_flow": "flow_matching",
    "_dmf": "decoupled_mean_flow", "_reflow": "re_mean_flow", "_flow_consist": "flow_consist",
    "_split": "split_mean_flow", "_alpha": "alpha_flow", "_imf": "improved_mean_flow",
    "_dit": None, "_teacher": None, "_cmt": "trajectory_regression",
    "_mfd": "mean_flow_distillation", "_mft": "mean_flow_tuning",
}  # fmt: skip
_OLD = (
    (r"(digits_rae|imagenet_rae)(_teacher|_cmt|_mfd|_mft)()()", ""),
    (r"(imagenet256)(_dit|_dmf|_reflow|_alpha|_imf)_(b4|b2|l2|xl2)(_improved)?", ""),
    (r"(digits|mnist|eurosat)(_improved|_flow_consist|_flow|_dmf|_reflow|_split)()()", ""),
    (r"(digits|mnist)(_alpha|_imf)()()", ""),
    (r"(digits|mnist|eurosat|gaussian)()()()", ""),
    (r"(cifar10)(?:_unet)()()(_v1)?", "times=masked_then_clamped"),
    (r"(speech)_vbdmd()()(_released)?", "derivative=clipped"),
    (r"(speech_digits)()()(_released)?", "derivative=clipped"),
)  # fmt: skip


def of_old_name(name: str, knobs: dict | None = None) -> tuple[Plan, dict] | None:
    """The plan and the settings of a recipe of version 0.1.0; None if there was no such recipe.

    Knobs that the recipe ignored are left out.
    """
    found = [(m, special) for p, special in _OLD if (m := re.fullmatch(p, name))]
    if not found:
        return None
    (task, suffix, size, variant), special = found[0][0].groups(), found[0][1]
    knobs, method = dict(knobs or {}), _SUFFIXES[variant if variant == "_improved" else suffix]
    if method == "re_mean_flow":
        knobs["pair_store"] = knobs.pop("data", None)
        method += "_guided" if float(knobs.get("largest_scale", 1.0)) > 1.0 else ""
    if method == "split_mean_flow" and knobs.get("teacher"):
        knobs["label_dropout"] = 0.0
    if task == "speech_digits" and "exponent" in knobs:
        knobs["gap_exponent"] = knobs.pop("exponent")
    knobs |= {"size": size} if size else {}
    knobs |= dict([special.split("=")]) if variant and special else {}
    plan = Plan.of(task, method)
    return plan, {knob: value for knob, value in knobs.items() if knob in plan.knobs()}
