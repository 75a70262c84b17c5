"""Decoupled MeanFlow: flow matching and MeanFlow on every row; only the last blocks take r."""

from keras_meanflow.formats.fine_tuning import decouple
from keras_meanflow.objectives import DecoupledMeanFlow
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import guidance_of, network_of


@method(needs=("DiT", "noise"))
def decoupled_mean_flow(
    task: Task,
    *,
    flow: str | None = None,
    split_depth: int = 3,
    omega: float = 1.0,
    kappa: float = 0.0,
    guidance_end: float = 1.0,
    label_dropout: float = 0.1,
) -> Method:
    """Decoupled MeanFlow: flow matching and MeanFlow on every row; only the last blocks take r.

    These are the blocks after split_depth. flow is the run of a flow model, or the weights of a SiT
    whose time 1 is noise, such as REPA's: the network is initialised with it. None trains from
    scratch. kappa is the paper's omega, the strength of model guidance. The loss is the one in the
    paper; the published models were trained with `ReleasedLogMSE`.

    Paper: Decoupled MeanFlow (arXiv 2510.24474); kyungmnlee/dmf scripts/train_dmf_xl_2_256.sh.
    Command: keras-meanflow train digits --method decoupled_mean_flow
    Cost: 8 forward passes per step, 11 with guidance.
    Expected, one step:
        digits          accuracy 0.998, coverage 0.845, Frechet 0.630 (docs/results/methods.md)
        imagenet256     FID 2.16 xl2, 1.64 in two steps, 1.51 in four (paper, from a flow model of
                        4 M steps)
    """
    objective = DecoupledMeanFlow(
        guidance=guidance_of(omega, kappa, guidance_end), label_dropout=label_dropout, **task.noise
    )

    def network():
        settings = dict(format="dmf", split_depth=None)
        start = task.network() if flow is None else network_of(flow, "flow", **settings)
        return decouple(start, split_depth)

    return Method(objective, network=network)
