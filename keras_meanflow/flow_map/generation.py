"""Samples of a trained FlowMap, and their sampler exported for serving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_meanflow.backend import (
    BACKEND,
    Tensor,
    compiled,
    device_count,
    export_arguments,
    spread,
)
from keras_meanflow.backend.random import philox_noise
from keras_meanflow.files.atomic import replacing
from keras_meanflow.flow_map.weights import without_lora
from keras_meanflow.networks.base import Network
from keras_meanflow.parts.ranges import check_sizes
from keras_meanflow.samplers import Jump
from keras_meanflow.samplers.base import Sampler

_FORMATS = {"jax": "tf_saved_model", "tensorflow": "tf_saved_model", "torch": "torch"}


def as_condition(labels: Any) -> Any:
    """Labels, a list of them, an array or a dict of arrays, in NumPy; None stays None."""
    if isinstance(labels, dict):
        return {name: as_condition(array) for name, array in labels.items()}
    array = np.asarray(labels)
    return None if labels is None else array.astype("float32") if array.dtype.kind == "f" else array


class Generation:
    """`generate` and `export` of a FlowMap."""

    def generate(
        self,
        labels: Any,
        *,
        steps: int | None = None,
        sampler: Sampler | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 256,
        guidance_scale: float | None = None,
        temperature: float = 1.0,
        verbose: int | str = "auto",
    ) -> np.ndarray:
        """Samples from noise, float32 NumPy of shape (n, ...), with the weights of `average`.

        Args:
            labels: integers (n,), or another condition that the network takes, an array or a dict
                of arrays with n rows. For an unconditional network, the number of samples.
            steps: number of jumps of the flow map; 1 by default.
            sampler: a `Sampler` instead: `Jump(times=...)`, `Euler(steps=50)`, `Heun(steps=25)`,
                `Restart(steps=2)`, `BanditSampler(steps=50)`, which learns from each batch.
            seed: image i of seed s is the same whatever the batch size, backend or devices, unless
                the sampler learns.
            first: index of the first image.
            batch_size: largest batch that runs at once, over all devices of this process on JAX;
                the last one is padded to it.
            guidance_scale: s of `u(null) + s (u(c) - u(null))`, for a model trained with label
                dropout and without guidance in the target.
            temperature: factor of the noise; at 0 there is none.
            verbose: 0 for no progress bar; "auto" shows one over several batches.

        Raises:
            ValueError: for unknown labels, steps < 1, both `steps` and `sampler`, a guidance scale
                on a model that has guidance in its target or no null label, or a negative
                temperature.

        Example:
            >>> flow_map.generate(np.arange(10), steps=1, seed=0).shape
            (10, 8, 8, 1)
        """
        if steps is not None and sampler is not None:
            raise ValueError(f"Give steps or a sampler, not both. Received: {steps}, {sampler}.")
        check_sizes(batch_size=batch_size)
        sampler = sampler or Jump(steps=1 if steps is None else steps)
        self._check_guidance_scale(guidance_scale)
        if not temperature >= 0.0:
            raise ValueError(f"temperature is at least 0. Received: {temperature}.")
        n, condition = self._count_and_condition(labels)
        devices = device_count()
        batch_size = -(-max(min(batch_size, n), 1) // devices) * devices
        step = self._compiled_step(sampler, guidance_scale)
        batches = range(0, n, batch_size)
        show = verbose not in (0, "auto") or (verbose == "auto" and len(batches) > 1)
        bar = keras.utils.Progbar(n, unit_name="image") if show else None
        out = np.empty((n, *self.network.data_shape), "float32")
        for start in batches:
            rows = np.minimum(np.arange(start, start + batch_size), n - 1)  # the last one padded
            noises = [
                np.float32(temperature)
                * philox_noise(seed, first + rows, self.network.data_shape, draw=draw)
                for draw in range(sampler.noises)
            ]
            part = keras.tree.map_structure(lambda a, rows=rows: a[rows], condition)
            samples = self._sample(sampler, step, noises, part)
            stop = min(start + batch_size, n)
            out[start:stop] = samples[: stop - start]
            if bar:
                bar.update(stop)
        return out

    def _sample(self, sampler, step, noises, condition):
        noises, condition = keras.tree.map_structure(spread, (noises, condition))
        condition = keras.tree.map_structure(ops.convert_to_tensor, condition)
        noises = [
            self.objective.start(ops.convert_to_tensor(noise), *(condition or (None,)))
            for noise in noises
        ]
        values = self.chosen_values()[1]
        walked = sampler.walk(lambda *arguments: step(values, arguments, condition), *noises)
        return ops.convert_to_numpy(walked)

    def _compiled_step(self, sampler, guidance_scale):
        variables = self.network.variables
        key = (sampler, guidance_scale, self.jit_compile, *map(id, variables))
        if key not in self._untracked.steps:

            def step(arguments, condition):
                def u(z, r, t):
                    return self._guided(z, r, t, guidance_scale, *condition)

                return sampler.step(u, *arguments)

            jit = BACKEND != "torch" or self.jit_compile is True
            self._untracked.steps[key] = compiled(step, variables, jit)
        return self._untracked.steps[key]

    def _guided(self, z, r, t, scale, condition=None):
        u = self.network(z, r, t, condition)
        if scale is None:
            return u
        null = self.network.drop_condition(condition, ops.ones_like(t, dtype="bool"))
        u_null = self.network(z, r, t, null)
        return u_null + scale * (u - u_null)

    def _count_and_condition(self, labels):
        """The number of samples, and a tuple of the condition, empty if there is none."""
        if isinstance(labels, (int, np.integer)) and not self.network.conditional:
            if labels < 1:
                raise ValueError(f"The number of samples is at least 1. Received: {labels}.")
            return int(labels), ()
        if isinstance(labels, (int, np.integer)):
            raise ValueError(
                "This network is conditional: generate takes one label for each sample, as in "
                f"generate(np.repeat(np.arange(10), 8)). Received the number {labels}."
            )
        condition = as_condition(labels)
        if condition is not None and not any(map(len, keras.tree.flatten(condition))):
            raise ValueError("generate makes at least 1 sample. Received: no labels.")
        self.network.check_condition(condition)
        return len(next(iter(keras.tree.flatten(condition)))), (condition,)

    def _check_guidance_scale(self, scale):
        if scale is None:
            return
        if not np.isfinite(scale):
            raise ValueError(f"guidance_scale must be finite. Received: {scale}.")
        if self.objective.guidance is not None and self.objective.guidance.guides:
            raise ValueError(
                "This model has guidance baked into its training target "
                f"({self.objective.guidance}): one call already gives the guided velocity. Leave "
                f"guidance_scale out. Received: {scale}."
            )
        if not self.network.conditional or self.objective.label_dropout == 0.0:
            raise ValueError(
                "guidance_scale needs a null label that was trained: a conditional network and "
                f"label_dropout > 0. Received: guidance_scale={scale}."
            )

    def export(
        self,
        filepath: str | Path,
        *,
        steps: int = 1,
        sampler: Sampler | None = None,
        format: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a model from noise and condition to samples, with the weights of `average`.

        A sampler that adds noise between steps has an input for each noise (`Sampler.noises`).

        Args:
            filepath: where to write it.
            steps: number of jumps of the flow map.
            sampler: a `Sampler` instead; one that learns is exported with what it has learned.
            format: of `keras.Model.export`: "tf_saved_model" (default on TensorFlow and JAX),
                "torch" (default on PyTorch, a `.pt2` file) and others where this backend has them.
            **kwargs: further arguments of `keras.Model.export`.

        Raises:
            OSError: if it cannot be written; what was there before is then unchanged.

        Example:
            >>> flow_map.export("sampler")
        """
        model = self.sampling_model((sampler or Jump(steps=steps)).freeze())
        format = format or _FORMATS[BACKEND]
        kwargs = {**export_arguments(format, len(model.inputs)), "verbose": False, **kwargs}
        with replacing(Path(filepath)) as temporary:
            try:
                keras.Model.export(model, temporary, format=format, **kwargs)
            except ValueError as error:  # of another ending, for example
                raise ValueError(str(error).replace(str(temporary), str(filepath))) from error

    def sampling_model(self, sampler: Sampler) -> keras.Model:
        """A plain `keras.Model` from noise and the arrays of a condition, if any, to samples.

        Its inputs are a list, with the arrays of a dict in the order of their names. Weights are
        copied.
        """
        network = self.copied_network(self.average)
        names = ["noise", *(f"noise_{k}" for k in range(1, sampler.noises))]
        noises = [keras.Input(network.data_shape, name=name) for name in names]
        condition = network.condition_inputs()
        samples = SamplingLayer(network, sampler, self.objective.start)(noises, condition)
        given = [] if condition is None else keras.tree.flatten(condition)
        return keras.Model([*noises, *given], samples)

    def copied_network(self, average: float | None) -> Network:
        """A copy of the network with the average of this decay, or the raw weights for None.

        LoRA is merged into the weights of the copy.
        """
        network = type(self.network).from_config(self.network.get_config())
        network.ensure_built()
        pairs = zip(self.weights_of(None), self.weights_of(average), strict=True)
        with keras.StatelessScope(list(pairs)):
            values = [ops.copy(value) for _, value in without_lora(self.network)]
        for target, value in zip(network.variables, values, strict=True):
            target.assign(value)  # a copy: JAX donates buffers
        return network


class SamplingLayer(keras.layers.Layer):
    """A sampler with its network as a layer, from noise and condition to samples."""

    def __init__(self, network: Network, sampler: Sampler, start: Callable, **kwargs: Any):
        super().__init__(autocast=False, **kwargs)
        self.network, self.sampler, self.start = network, sampler, start
        self.built = True

    def call(self, noises: list[Tensor], condition: Any = None) -> Tensor:
        """Samples (B, ...) from a list of noises (B, ...), which the sampler adds in turn."""
        starts = [self.start(noise, condition) for noise in noises]
        return self.sampler(lambda z, r, t: self.network(z, r, t, condition), *starts)

    def compute_output_spec(self, noises: list, condition: Any = None) -> keras.KerasTensor:
        """Samples have the noise's shape."""
        return keras.KerasTensor(noises[0].shape, dtype="float32")
