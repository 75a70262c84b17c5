"""Improved MeanFlow: du/dt along the velocity from a second head; guidance is an input."""

from keras_meanflow.networks import InContextDiT
from keras_meanflow.objectives import GuidanceInput, ImprovedMeanFlow
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import loss_of

_SIZES = "image_size channels patch_size width depth heads num_classes".split()


@method(needs=("DiT", "noise"))
def improved_mean_flow(
    task: Task,
    *,
    head_depth: int = 8,
    largest: float = 1.0,
    beta: float = 1.0,
    class_tokens: int = 8,
    omega_tokens: int = 4,
    interval_tokens: int = 2,
    time_tokens: int = 4,
    sample_scale: float = 1.0,
    sample_from: float = 0.0,
    sample_until: float = 1.0,
    fraction_r_equals_t: float = 0.5,
    power: float = 1.0,
    floor: float = 0.01,
    label_dropout: float = 0.1,
) -> Method:
    """Improved MeanFlow: du/dt along the velocity from a second head, of head_depth blocks.

    The condition and t - r are tokens of the sequence (`InContextDiT`). If largest is above 1, the
    guidance scale is an input of the network; label_dropout is then needed. Training draws scales
    up to largest, with a law that has the parameter beta. Sampling uses the scale sample_scale, at
    times between sample_from and sample_until.

    Paper: Improved Mean Flows (arXiv 2512.02012), table 4 of the appendix.
    Command: keras-meanflow train digits --method improved_mean_flow
    Cost: 4.5 forward passes per step, 6 with guidance; more tokens, and the second head.
    Expected, one step:
        digits, mnist   docs/results/methods.md
        imagenet256     FID 3.39 b2 (paper), labels in turn, guidance 8 on [0.4, 0.65]
    """
    objective = ImprovedMeanFlow(
        times=task.law(fraction_r_equals_t),
        loss=loss_of(power, floor),
        guidance=GuidanceInput(beta=beta, largest=largest) if largest > 1.0 else None,
        label_dropout=label_dropout,
        **task.noise,
    )

    def network():
        sizes = {name: task.network.keywords[name] for name in _SIZES}
        return InContextDiT(
            **sizes,
            head_depth=head_depth,
            class_tokens=class_tokens,
            omega_tokens=omega_tokens,
            interval_tokens=interval_tokens,
            time_tokens=time_tokens,
            guidance={"omega": sample_scale, "t_min": sample_from, "t_max": sample_until},
        )

    return Method(objective, network=network)
