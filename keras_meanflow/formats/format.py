"""What every format of published weights shares: a table of names, both ways, and its refusals."""

import abc
import fnmatch

import numpy as np
from keras import ops

from keras_meanflow.formats.names import named_weights


class Format(abc.ABC):
    """A way to name and lay out a network's weights; a subclass writes the table.

    Attributes:
        name: what users call it.
        origin: where files of it come from.
        training_only: patterns of tensors that serve training alone; left out on reading.
        wrapping: names that a written file nests its tensors under.
    """

    name = origin = ""
    training_only = ()
    wrapping = ()

    @abc.abstractmethod
    def recognises(self, names):
        """Whether tensors of these names are in this format."""

    @abc.abstractmethod
    def network(self, state, **settings):
        """A network for the tensors; `settings` are what no tensor tells.

        Raises:
            ValueError: for a setting that the file does not tell and nobody gave.
        """

    def velocity(self, network):
        """The network of the file as one that predicts velocities: itself, unless it does not."""
        return network

    def published(self, network):
        """The network that the file has, of one that `velocity` returned.

        Raises:
            ValueError: for a network that predicts something else than the file's.
        """
        return network

    @abc.abstractmethod
    def check(self, network):
        """Raise a ValueError for a network that this format's own code would not compute."""

    @abc.abstractmethod
    def rows(self, network):
        """The table: a list of `Row`."""

    def constants(self, network):
        """Tensors that are stored and never learned, by name: written, and checked on reading."""
        del network
        return {}

    def optional(self, network):
        """The constants that a file may lack."""
        del network
        return ()

    def read_into(self, network, state):
        """Give a network the tensors of a file.

        Raises:
            ValueError: for missing or unmatched tensors, all of them by name; for another shape.
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
                    "The file's sizes must be the network's. "
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
                f"The tensors must be those of the format {self.name} ({self.origin}), for a "
                f"network of this size. Missing: {', '.join(missing) or 'none'}. "
                f"Unmatched: {', '.join(unmatched) or 'none'}."
            )

    def state_of(self, network):
        """The network's weights as tensors of this format, by name: what `read_into` reads.

        Raises:
            ValueError: for a network that this format's own code would not compute.
        """
        self.check(network)
        weights = named_weights(network)
        state = dict(self.constants(network))
        for row in self.rows(network):
            value = ops.convert_to_numpy(weights[row.ours].value)
            arrays = row.turn.theirs(value, network)
            state |= zip(row.theirs, map(np.ascontiguousarray, arrays), strict=True)
        return state


def required(settings, name, why):
    """A setting that no tensor tells.

    Raises:
        ValueError: if nobody gave it.
    """
    if name not in settings:
        raise ValueError(f"{name} is not in the file: give it, as in {name}={why}.")
    return settings[name]


def _check_constant(name, found, expected):
    if found.shape != expected.shape:
        raise ValueError(
            f"{name} must be the network's fixed table, {expected.shape}: the checkpoint is of "
            f"another image size or patch size. Received: {found.shape}."
        )
    if np.abs(np.asarray(found, "float32") - expected).max() > 5e-3:  # bfloat16 rounds by 4e-3
        raise ValueError(
            f"{name} must be the fixed sin-cos table, and the file's is not: it was trained."
        )
