"""The base class of formats: a table of names, used in both directions, and its checks."""

from __future__ import annotations

import abc
import fnmatch
from collections.abc import Collection
from typing import Any

import numpy as np
from keras import ops

from keras_meanflow.formats.names import named_weights
from keras_meanflow.formats.turns import Row
from keras_meanflow.networks import Network


class Format(abc.ABC):
    """A way to name and lay out a network's weights; a subclass writes the table.

    Attributes:
        name: the format's name for users.
        origin: the code that writes such files.
        training_only: patterns of tensors that only training needs; reading ignores them.
        wrapping: names of the dicts around the tensors of a written file, outermost first.
    """

    name = origin = ""
    training_only = ()
    wrapping = ()

    @abc.abstractmethod
    def recognises(self, names: Collection[str]) -> bool:
        """Whether tensors with these names are in this format."""

    @abc.abstractmethod
    def network(self, state: dict[str, np.ndarray], **settings: Any) -> Network:
        """A network for the tensors; `settings` are the arguments that no tensor shows.

        Raises:
            ValueError: for a missing argument that no tensor shows.
        """

    def velocity(self, network: Network) -> Network:
        """The file's network as one that predicts velocities: unchanged if it predicts them."""
        return network

    def published(self, network: Network) -> Network:
        """The network that a file holds, from one that `velocity` returned.

        Raises:
            ValueError: for a network that predicts another quantity than the format's networks.
        """
        return network

    @abc.abstractmethod
    def check(self, network: Network) -> None:
        """Raise a ValueError for a network that this format's code would compute differently."""

    @abc.abstractmethod
    def rows(self, network: Network) -> list[Row]:
        """The table: a list of `Row`."""

    def constants(self, network: Network) -> dict[str, np.ndarray]:
        """Tensors that are stored but not learned, by name: written, and checked on reading."""
        del network
        return {}

    def optional(self, network: Network) -> tuple[str, ...]:
        """The names of constants that a file may leave out."""
        del network
        return ()

    def read_into(self, network: Network, state: dict[str, np.ndarray]) -> None:
        """Assign the tensors of a file to a network.

        Raises:
            ValueError: for missing or unmatched tensors (all are named), or another shape.
        """
        rows, constants = self.rows(network), self.constants(network)
        self._check_names(state, rows, constants, self.optional(network))
        weights = named_weights(network)
        left = sorted(set(weights) - {row.ours for row in rows})
        if left:
            raise ValueError(f"The format {self.name} has no tensors for {left}.")
        for name, value in constants.items():
            if name in state:
                _check_constant(name, state[name], value)
        values = {row.ours: self._turned(row, state, network, weights) for row in rows}
        for name, value in values.items():
            weights[name].assign(value)

    def _turned(self, row, state, network, weights):
        expected = weights[row.ours]
        theirs = row.turn.theirs(np.empty(expected.shape, "float32"), network)
        for name, like in zip(row.theirs, theirs, strict=True):
            if state[name].shape != like.shape:
                raise ValueError(
                    "The file's sizes must match the network's. "
                    f"{name} is {state[name].shape}, the network's is {like.shape}."
                )
        arrays = [np.asarray(state[name], "float32") for name in row.theirs]
        return row.turn.ours(arrays, network)

    def _check_names(self, state, rows, constants, optional):
        wanted = {name for row in rows for name in row.theirs} | set(constants) - set(optional)
        missing = sorted(wanted - set(state))
        unmatched = [
            name
            for name in sorted(set(state) - wanted - set(constants))
            if not any(fnmatch.fnmatch(name, pattern) for pattern in self.training_only)
        ]
        if missing or unmatched:
            raise ValueError(
                f"The file must hold the tensors of the format {self.name} ({self.origin}), for "
                f"a network of this size. Missing: {', '.join(missing) or 'none'}. "
                f"Unmatched: {', '.join(unmatched) or 'none'}."
            )

    def state_of(self, network: Network) -> dict[str, np.ndarray]:
        """The network's weights as tensors of this format, by name, as `read_into` reads them.

        Raises:
            ValueError: for a network that the code of this format would compute differently.
        """
        self.check(network)
        weights = named_weights(network)
        state = dict(self.constants(network))
        for row in self.rows(network):
            value = ops.convert_to_numpy(weights[row.ours].value)
            arrays = row.turn.theirs(value, network)
            state |= zip(row.theirs, map(np.ascontiguousarray, arrays), strict=True)
        return state


def required(settings: dict[str, Any], name: str, example: str) -> Any:
    """An argument of the network that no tensor shows.

    Raises:
        ValueError: if it is missing; the message gives the example.
    """
    if name not in settings:
        raise ValueError(f"{name} is not in the file: give it, as in {name}={example}.")
    return settings[name]


def _check_constant(name, found, expected):
    if found.shape != expected.shape:
        raise ValueError(
            f"{name} must be the network's fixed table, {expected.shape}: the checkpoint is of "
            f"another image size or patch size. Received: {found.shape}."
        )
    if np.abs(np.asarray(found, "float32") - expected).max() > 5e-3:  # bfloat16 rounds by 4e-3
        raise ValueError(
            f"{name} must be the fixed sin-cos table. The file's table differs: it was trained."
        )
