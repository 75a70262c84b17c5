"""MeanFlow: the average velocity, from the MeanFlow identity."""

from keras_meanflow import MeanFlow
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import derivative_of, guidance_of, loss_of


@method
def mean_flow(
    task: Task,
    *,
    fraction_r_equals_t: float = 0.75,
    power: float = 1.0,
    floor: float = 0.01,
    omega: float = 1.0,
    kappa: float = 0.0,
    guidance_end: float = 1.0,
    label_dropout: float = 0.1,
    derivative: str = "exact",
) -> Method:
    """MeanFlow: one network learns the average velocity of every interval from r to t.

    power and floor are p and c of the adaptive loss; power=0 is the squared error. omega and kappa
    set the guidance in the target, up to the time guidance_end; the effective scale is
    omega / (1 - kappa). label_dropout is the share of rows without a label; it allows a guidance
    scale in sampling. derivative is "exact", "central" (a central difference) or "clipped" (as in
    the released code of MeanFlowSE).

    Paper: Mean Flows for One-step Generative Modeling (arXiv 2505.13447).
    Command: keras-meanflow train digits --method mean_flow
    Cost: 3.5 forward passes per step for 3/4 of rows with r = t; 4.75 with omega and kappa.
    Expected, one step:
        digits          docs/guide/evaluation.md; the README's table by benchmarks/digits_quality.py
        gaussian        86 % of samples within 3 standard deviations of a centre (data: 99 %)
        mnist           LeNet-FID of 10,000 samples 39.2; 4.7 in two steps, 3.3 in four
        cifar10         FID 2.92 (paper); about 2.9 with times=masked_then_clamped (authors' code)
        imagenet256     FID 19.15 b4 (authors' code 18.70), 6.17 b2, 3.84 l2, 3.43 xl2 (paper)
        speech_digits   at 0 dB 5.4 dB of SI-SDR and 0.1 of ESTOI gained (docs/guide/speech.md)
    """
    objective = MeanFlow(
        times=task.law(fraction_r_equals_t),
        loss=loss_of(power, floor),
        guidance=guidance_of(omega, kappa, guidance_end),
        label_dropout=label_dropout,
        derivative=derivative_of(derivative),
        **task.noise,
    )
    return Method(objective)
