"""The training scheme of the seed paper: velocity first, then from short to long intervals."""

from keras_meanflow import MeanFlow
from keras_meanflow.flow_map import improved_training
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import guidance_of, loss_of


@method
def progressive_mean_flow(
    task: Task,
    *,
    gamma: float | None = 5.0,
    exponent: float | None = 1.0,
    stages: int | None = None,
    patience: int = 200,
    min_snr: str = "velocity",
    easy: str = "t",
    v_share: float | None = None,
    fraction_r_equals_t: float = 0.75,
    power: float = 1.0,
    floor: float = 0.01,
    omega: float = 1.0,
    kappa: float = 0.0,
    guidance_end: float = 1.0,
    label_dropout: float = 0.1,
) -> Method:
    """MeanFlow with a schedule: velocity first, then from short to long intervals.

    gamma is the parameter of the MinSNR weights on rows with r = t. exponent is the parameter of
    the weights by the gap, on rows with r < t. stages is the number of stages that draw easy times
    first; a stage ends after patience steps without improvement. None turns a part off. For large
    models the paper uses stages=20 gamma=none. min_snr is "velocity", "data" or "noise", the form
    of the MinSNR weight. easy says which times are restricted: "t" of all rows, "diagonal" (only
    rows with r = t), or "interval" (r and t). v_share is the share of the weight on rows with
    r = t; none leaves it to the weights. The other knobs are as in mean_flow.

    Paper: Understanding, Accelerating, and Improving MeanFlow Training (arXiv 2511.19065). Its code
        is not public; `EasyFirst` and `MinSNRVelocity` say what the paper leaves open.
    Command: keras-meanflow train digits --method progressive_mean_flow
    Cost: as mean_flow.
    Expected, one step:
        digits, mnist, eurosat    docs/results/improved_training.md
        imagenet256     FID 9.87 b4 after steps=1_200_000 (11.58 without), 3.47 l2 (3.84), 2.87 xl2
                        (3.43), all from the paper
    """
    objective = MeanFlow(
        times=task.law(fraction_r_equals_t),
        loss=loss_of(power, floor),
        guidance=guidance_of(omega, kappa, guidance_end),
        label_dropout=label_dropout,
        v_share=v_share,
        **task.noise,
    )
    scheme = dict(gamma=gamma, exponent=exponent, stages=stages, patience=patience)
    scheme |= dict(min_snr=min_snr, easy=easy)
    return Method(improved_training(objective, **scheme).changed(objective))
