"""The tensors of one network in a training checkpoint, which may hold raw and averaged ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

# What stands before the names of a network's tensors, as a dict or as a prefix, in order.
RAW = ("model", "params", "state_dict", "model_state_dict", "net", "network", "dnn", "module")
RAW += ("online_model", "generator")
AVERAGED = re.compile(r"(^|[_.-])(ema|swa|avg|averaged?|shadow)([_.-]|\d|$)", re.IGNORECASE)
# Of wrappers: DistributedDataParallel, DeepSpeed; torch.compile, also of single layers.
WRAPPED = re.compile(r"^((_forward_)?module\.)+|(?<=\.)_orig_mod\.|^_orig_mod\.")
COUNTS = ("decay", "num_updates", "n_averaged", "initted", "step")  # of averages, no weights


def chosen_state(tree: Any, *, averaged: bool = True) -> dict[str, np.ndarray]:
    """The tensors of one network, by name, in what a file holds.

    Args:
        tree: nested dicts of arrays.
        averaged: whether to take averaged weights, where there are any, or the raw ones.

    Raises:
        ValueError: if there is no dict, or only averaged weights where raw ones are asked for, an
            entry that is no tensor, or a second set of the same names of which nothing says
            whether it is averaged.
    """
    state = one_of(flat(weights_of(tree, averaged=averaged)), averaged=averaged)
    if averaged and "shadow_params" not in _dict_in(tree, "ema"):
        _check_one_average(tree, state)
    return state


def weights_of(tree: Any, *, averaged: bool = True) -> dict[str, Any]:
    """The dict of tensors in a training checkpoint: follows the names of dicts around it.

    Raises:
        ValueError: if there is no dict, or only averaged weights where raw ones are asked for.
    """
    if not isinstance(tree, dict):
        raise ValueError(f"Weights are a dict of tensors. Received: {type(tree).__name__}.")
    if averaged and "shadow_params" in _dict_in(tree, "ema"):
        return _with_shadows(tree["state_dict"], tree["ema"]["shadow_params"])
    inner = {n: d for n, d in tree.items() if isinstance(d, dict) and "shadow_params" not in d}
    averages = [name for name in inner if AVERAGED.search(str(name)) and _has_tensors(inner[name])]
    raw = [name for name in RAW if name in inner and _has_tensors(inner[name])]
    if not averaged and averages and not raw:
        raise ValueError(
            f"The file has averaged weights only, {averages}. Load these: averaged=True."
        )
    chosen = (averages if averaged else []) + raw
    return weights_of(inner[chosen[0]], averaged=averaged) if chosen else tree


def one_of(state: dict[str, np.ndarray], *, averaged: bool = True) -> dict[str, np.ndarray]:
    """The tensors of one network, by the prefix of its names, if the state holds several."""
    groups: dict[str, dict] = {}
    for name, array in state.items():
        first, dot, rest = name.partition(".")
        if dot:
            groups.setdefault(first, {})[unwrapped(rest)] = array
    averages = [name for name in groups if AVERAGED.search(name)]
    chosen = (averages if averaged else []) + [name for name in RAW if name in groups]
    if chosen:
        return one_of(groups[chosen[0]], averaged=averaged)
    return {name: array for name, array in state.items() if name not in COUNTS}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts as one, keys joined by "/"; without what wrappers put before names.

    Raises:
        ValueError: for an entry that is no tensor.
    """
    state = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            state |= flat(value, f"{prefix}{name}/")
        else:
            state[prefix + unwrapped(str(name))] = _tensor(prefix, name, value)
    return state


def unwrapped(name: str) -> str:
    """A tensor's name without what wrappers put before it."""
    return WRAPPED.sub("", name)


def _tensor(prefix, name, value):
    is_number = isinstance(value, np.ndarray | np.generic | int | float)
    if not is_number or np.asarray(value).dtype.kind not in "biuf":
        raise ValueError(
            f"Every entry must be a tensor. {prefix}{name} is of type {type(value).__name__}."
        )
    return np.asarray(value)


def _dict_in(tree, name):
    """The dict of this name in a dict, or an empty one."""
    inner = tree.get(name) if isinstance(tree, dict) else None
    return inner if isinstance(inner, dict) else {}


def _has_tensors(tree):
    return next(_tensors(tree), None) is not None


def _tensors(tree, prefix="") -> Iterator[str]:
    """Yields the names of all tensors in nested dicts, those of optimizers left out."""
    for name, value in tree.items():
        if isinstance(value, dict) and not str(name).startswith("opt"):
            yield from _tensors(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            yield prefix + unwrapped(str(name))


def _check_one_average(tree, state):
    """Raise if several sets of the state's names are in the file, and not one of them averaged."""
    names = set(_tensors(tree)) if isinstance(tree, dict) else set()
    longest = max(state, key=len, default="")
    sets = [name.removesuffix(longest) for name in names if name.endswith(longest)]
    sets = sorted(s for s in sets if all(s + name in names for name in state))
    averages = [one for one in sets if any(map(AVERAGED.search, re.split("[./]", one)))]
    if len(sets) > 1 and len(averages) != 1:
        listed = ", ".join(repr(one.rstrip("./")) for one in sets)
        raise ValueError(
            f"The file holds {len(sets)} sets of the same tensors, {listed}, and "
            f"{len(averages)} of them say that they are averaged. Take the raw ones: "
            "averaged=False, --raw; or save the set that you want in a file of its own."
        )


def _with_shadows(state, averages):
    """The tensors, replaced by torch-ema's averages: a list in the same order, without names."""
    learned = [name for name in state if not name.endswith(("all_modules.0.W", "delta_gfproj.W"))]
    names = list(state) if len(averages) == len(state) else learned
    return {**state, **dict(zip(names, averages, strict=True))}
