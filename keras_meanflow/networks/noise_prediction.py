"""NoisePrediction: a diffusion model that predicts noise, as a velocity of the linear path."""

from typing import Any, Self

import numpy as np
from keras import ops

from keras_meanflow.backend import Tensor
from keras_meanflow.networks.around import Around
from keras_meanflow.networks.base import Condition, Network
from keras_meanflow.parts.part import register
from keras_meanflow.parts.rows import per_row

BETAS, STEPS = (1e-4, 0.02), 1000  # of DiT and of diffusers' DiT


@register
class NoisePrediction(Around):
    """The velocity of the linear path, from a network that predicts the noise of a DDPM.

    The DDPM has `x_s = a x + b e`, `a^2 = alphas_bar(s)`, `a^2 + b^2 = 1`. At the step s of equal
    signal-to-noise ratio, `a / b = (1 - t) / t`, the two states differ only by a factor:
    `x_s = z_t / c`, `c^2 = (1 - t)^2 + t^2`. With its noise e, `v = e - x = (e - z_t) / (1 - t)`.
    s is continuous: between two steps `log(a / b)` is interpolated on a straight line.

    The DDPM covers the times from 0.0099 (its first step) to 0.9937 (its last step, whose signal is
    not quite zero). Above 0.9937, the data is the estimate of the last step from the same x_s.
    Below 0.0099, the noise is the estimate of the first step in proportion to b, as for a score
    that no longer changes. At t = 1 the noise, and its error, is multiplied by 158. So fine-tuning
    changes the output most there.

    The network gets both times in the DDPM's clock, `s / steps`. A network with an input t - r
    (`formats.fine_tuning.add_interval`) then gets 0 at r = t.

    Args:
        network: a `Network` that predicts noise for `(x_s, s_r / steps, s_t / steps, condition)`:
            a `DiT` with `time_scale=1000`.
        betas: first and last variance of a linear schedule.
        steps: number of steps of the DDPM.

    Example:
        >>> flow = load_network("DiT-XL-2-256x256.pt", "dit")  # a NoisePrediction
        >>> v = flow(z, t, t, labels)

    References:
        Ho et al., Denoising Diffusion Probabilistic Models (arXiv 2006.11239), Eq. 4; Kingma et
        al., Variational Diffusion Models (arXiv 2107.00630), section 5.1, for equal ratios.
    """

    def __init__(
        self,
        network: Network,
        *,
        betas: tuple[float, float] = BETAS,
        steps: int = STEPS,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        self.betas, self.steps = tuple(betas), steps
        alphas_bar = np.cumprod(1.0 - np.linspace(*self.betas, steps, dtype="float64"))
        ratio = np.sqrt(alphas_bar / (1.0 - alphas_bar))  # a / b, falling
        self._log_ratios = np.log(ratio)
        self.first, self.last = float(1.0 / (1.0 + ratio[0])), float(1.0 / (1.0 + ratio[-1]))

    def call(self, z: Tensor, r: Tensor, t: Tensor, condition: Condition = None) -> Tensor:
        """The velocity, float32 of the shape of `z`; with an interval, the average velocity."""
        e = self.network(z / per_row(_norm(t), z), self.clock(r), self.clock(t), condition)
        b, b_first = t / _norm(t), self.first / _norm(self.first)
        e = per_row(ops.minimum(b / b_first, 1.0), z) * e
        known = ops.minimum(t, self.last)
        z_known = per_row(_norm(known) / _norm(t), z) * z  # of the same x_s, at the time `known`
        v = (e - z_known) / per_row(1.0 - known, z)
        # Above the last step v = (z - x) / t with x = z_known - last v; below it v itself.
        return (z - z_known + self.last * v) / per_row(ops.maximum(t, self.last), z)

    def clock(self, t: Tensor) -> Tensor:
        """`s / steps` (B,), s in [0, steps - 1], of the signal-to-noise ratio at time t (B,)."""
        t = ops.clip(t, self.first, self.last)
        log_ratio = ops.expand_dims(ops.log((1.0 - t) / t), 1)
        before, gaps = self._log_ratios[:-1], -np.diff(self._log_ratios)
        before, gaps = (ops.convert_to_tensor(a[None].astype("float32")) for a in (before, gaps))
        # One ramp from 0 to 1 for each step that has been passed.
        return ops.sum(ops.clip((before - log_ratio) / gaps, 0.0, 1.0), axis=1) / self.steps

    def around(self, network: Network) -> Self:
        """The same conversion for another network."""
        return type(self)(network, betas=self.betas, steps=self.steps)

    def get_config(self) -> dict:
        """The arguments."""
        return {**super().get_config(), "betas": list(self.betas), "steps": self.steps}


def _norm(t):
    """c, the norm of the coefficients (1 - t, t)."""
    return ((1.0 - t) ** 2 + t**2) ** 0.5
