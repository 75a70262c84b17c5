"""AlphaFlow: a gradual change from trajectory flow matching to MeanFlow."""

from keras_meanflow.objectives import AlphaFlow
from keras_meanflow.parts import Sigmoid
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import guidance_of, loss_of


@method
def alpha_flow(
    task: Task,
    *,
    begin: float = 0.0,
    until: float = 1.0,
    clip: float | None = None,
    fraction_r_equals_t: float = 0.25,
    power: float = 1.0,
    floor: float = 0.01,
    omega: float = 1.0,
    kappa: float = 0.0,
    guidance_end: float = 1.0,
    label_dropout: float = 0.1,
) -> Method:
    """AlphaFlow: a gradual change from trajectory flow matching to MeanFlow.

    The change happens while the progress goes from begin to until. clip is the largest absolute
    value of a target. The other knobs are as in mean_flow.

    Paper: AlphaFlow (arXiv 2510.20771). Our network takes (t, t - r), the authors' takes (t, r).
    Command: keras-meanflow train digits --method alpha_flow
    Cost: 3 forward passes per step at first, at the end as mean_flow.
    Expected, one step:
        digits, mnist   docs/results/methods.md
        imagenet256     FID 5.40 b2 (MeanFlow: 6.04), 2.95 xl2 (3.47); two steps 5.01 and 2.34
                        (paper, table 3)
    """
    objective = AlphaFlow(
        times=task.law(fraction_r_equals_t),
        loss=loss_of(power, floor),
        guidance=guidance_of(omega, kappa, guidance_end),
        label_dropout=label_dropout,
        alpha=Sigmoid(start=1.0, end=0.0, steepness=25.0, begin=begin, until=until),
        clip=clip,
        **task.noise,
    )
    return Method(objective)
