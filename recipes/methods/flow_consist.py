"""FlowConsist: du/dt along the predicted velocity, and a correction of samples towards the data."""

from keras_meanflow.objectives import FlowConsist
from keras_meanflow.parts import Steps
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import copy_of, guidance_of, loss_of


@method(needs=("noise",))
def flow_consist(
    task: Task,
    *,
    rectification: float = 0.5,
    begin: float = 0.4,
    fraction_r_equals_t: float = 0.75,
    power: float = 1.0,
    floor: float = 0.01,
    omega: float = 1.0,
    kappa: float = 0.0,
    guidance_end: float = 1.0,
    label_dropout: float = 0.1,
) -> Method:
    """FlowConsist: du/dt along the predicted velocity, and a correction of samples to the data.

    rectification is the weight of the correction, from the progress begin on. A second network of
    the same size learns the velocity of the samples. The other knobs are as in mean_flow.

    Paper: FlowConsist (arXiv 2602.06346), reconstructed (see `FlowConsist`).
    Command: keras-meanflow train digits --method flow_consist
    Cost: 12 + 3f forward passes per step, for a share f of rows with r < t.
    Expected, one step:
        digits          accuracy 0.983, coverage 0.846, Frechet 0.638 (docs/results/methods.md)
    """

    def objective(network):
        return FlowConsist(
            companion=copy_of(network),
            rectification=Steps(values=(0.0, rectification), at=(begin,)),
            times=task.law(fraction_r_equals_t),
            loss=loss_of(power, floor),
            guidance=guidance_of(omega, kappa, guidance_end),
            label_dropout=label_dropout,
            **task.noise,
        )

    return Method(objective)
