"""Many trainings by one compiled step: the cell, its seed and its weights are data of the step.

Compiling takes longer than a small training. The cells of a study differ in the law of (r, t) and
in the weights of rows, which are a few numbers a row. So one step computes those of all cells and
takes the ones of the present cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.flow_map import FlowMap
from keras_meanflow.objectives import MeanFlow
from keras_meanflow.objectives.problem import Draws
from keras_meanflow.parts.part import fields_of, part
from keras_meanflow.parts.times import StateVariable
from keras_meanflow.training import Training

_OF_A_CELL = {"times", "alpha", "beta", "v_share"}


@part
class Cells(MeanFlow):
    """One of several `MeanFlow` objectives, chosen by the state `cell`; draws of the state `seed`.

    With the state (cell i, seed s) a step is that of `FlowMap(network, cells[i], seed=s)`.

    Args:
        cells: objectives that differ in `times`, `alpha`, `beta` and `v_share`. Their laws of times
            have the same largest number of rows with r < t.

    Raises:
        ValueError: for cells that differ in something else.
    """

    cells: tuple = ()

    @classmethod
    def of(cls, cells: Sequence[MeanFlow]) -> Cells:
        """The objective with these cells."""
        return cls(**{**fields_of(cells[0]), "cells": tuple(cells)})

    def __post_init__(self):
        super().__post_init__()
        for cell in self.cells:
            mine, its = fields_of(self), fields_of(cell)
            differ = {n for n in set(its) - _OF_A_CELL if its[n] is not mine[n] != its[n]}
            if differ or cell.times.count_derived(_MANY) != self.times.count_derived(_MANY):
                raise ValueError(
                    f"Cells differ in {', '.join(sorted(_OF_A_CELL))} only, with as many rows that "
                    f"may have r < t. Received: {sorted(differ) or cell.times}."
                )

    @property
    def state(self) -> dict[str, StateVariable]:
        """The number of the cell, the seed, and the states of all laws of times."""
        laws = {name: value for cell in self.cells for name, value in cell.times.state.items()}
        return {"cell": StateVariable(0), "seed": StateVariable(0), **laws}

    @property
    def final_state(self) -> dict[str, Any]:
        """The final states of the laws, of the first cell."""
        laws = {name: value for cell in self.cells for name, value in cell.final_state.items()}
        return {"cell": 0, "seed": 0, **laws}

    def update_state(self, state: dict[str, Any], errors: dict[str, tuple]) -> dict[str, Any]:
        """The state of the present cell's law after a step."""
        after = [{**state, **cell.update_state(state, errors)} for cell in self.cells]
        return {name: _chosen([one[name] for one in after], state["cell"]) for name in self.state}

    def draw(self, keys: Keys, x: Tensor | dict, condition: Any = None) -> Draws:
        """The draws of the present cell and seed."""
        keys = dataclasses.replace(keys, seed=keys.state["seed"])
        draws = super().draw(keys, x, condition)
        pairs = {cell.times: None for cell in self.cells}
        pairs = {times: times.draw(keys, draws.rows) for times in pairs}
        r, t = zip(*(pairs[cell.times] for cell in self.cells), strict=True)
        number = keys.state["cell"]
        return draws._replace(r=_chosen(r, number), t=_chosen(t, number))

    def weight(self, draws: Draws) -> Tensor:
        """The weights of the present cell, (B,)."""
        weights = (cell.weight(draws) for cell in self.cells)
        weights = [ops.ones_like(draws.t) if w is None else w for w in weights]
        return _chosen(weights, draws.state["cell"])


_MANY = 10_000


def _chosen(values, number):
    return ops.take(ops.stack(values), number, axis=0)


class CellRuns:
    """Trains the cells of a study one after the other, with a step that is compiled once.

    Args:
        training: makes the `Training` of a seed: its network, optimizer, data and budget. The data
            and the first weights depend on the seed only, so cells of one seed are paired.
        cells: name -> objective; see `Cells`.

    Example:
        >>> runs = CellRuns(lambda seed: plan.training({"seed": seed}), {"plain": MeanFlow()})
        >>> for share in runs.train("plain", seed=0, parts=20):
        ...     measure(runs.flow_map)
    """

    def __init__(self, training: Callable[[int], Training], cells: Mapping[str, MeanFlow]):
        self.names, self._training = list(cells), training
        first = training(0)
        self.flow_map = FlowMap(
            first.flow_map.network,
            Cells.of(list(cells.values())),
            averages=first.flow_map.averages,
            horizon=first.steps,
        )
        jit = first.flow_map.jit_compile
        self.flow_map.compile(first.flow_map.optimizer, jit_compile=jit)
        self.flow_map.optimizer.build(self.flow_map.trainable_variables)
        self._zero = [ops.convert_to_numpy(v) for v in self.flow_map.optimizer.variables]

    def train(self, name: str, *, seed: int, parts: int) -> Iterator[float]:
        """Trains a cell from its start; yields the share of the steps done, after each part."""
        training = self._training(seed)
        self._begin(self.names.index(name), seed, training.flow_map)
        ends = [training.steps * i // parts for i in range(parts + 1)]
        for first, last in zip(ends, ends[1:], strict=False):
            batches = training.batches(first)
            self.flow_map.fit(batches, steps_per_epoch=last - first, verbose=0)
            yield last / training.steps

    def _begin(self, number, seed, fresh):
        """Sets all variables to those of a new model of this seed, and the cell and the seed."""
        model = self.flow_map
        for decay in (None, *model.averages):
            for weight, first in zip(model.weights_of(decay), fresh.weights_of(decay), strict=True):
                weight.assign(ops.convert_to_numpy(first))
        for variable, zero in zip(model.optimizer.variables, self._zero, strict=True):
            variable.assign(zero)
        model.step.assign(0)
        for state, variable in model.objective.state.items():
            model.state[state].assign(variable.first)
        model.state["cell"].assign(number)
        model.state["seed"].assign(seed)
