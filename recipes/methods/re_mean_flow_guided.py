"""Re-MeanFlow, second training: with guidance of a random scale."""

from keras_meanflow import MeanFlow
from keras_meanflow.data import PairStore
from keras_meanflow.objectives import RandomGuidance
from keras_meanflow.parts import MeanAdaptiveLoss, StoredPairs, UShaped
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import network_of
from keras_meanflow.training.task import given

_PAIRS = "a pair store, made by keras-meanflow reflow"


@method(needs=("noise",))
def re_mean_flow_guided(
    task: Task,
    *,
    pair_store: str | None = None,
    percentile: float = 90.0,
    start: str | None = None,
    largest_scale: float = 2.5,
    fraction_r_equals_t: float = 0.75,
    label_dropout: float = 0.1,
) -> Method:
    """Re-MeanFlow, second training: guidance with a random scale up to largest_scale.

    start is the run of re_mean_flow. The norm of the gradient is clipped at 1.

    Paper: Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342), Eq. 14.
    Command: keras-meanflow train digits --method re_mean_flow_guided --set pair_store=PAIRS
        --set start=runs/digits_re_mean_flow
    Data: keras-meanflow reflow RUN PAIRS -n 20000, with a flow model RUN
        (docs/guide/re_mean_flow.md).
    Cost: 4 + 3f forward passes per step, for a share f of rows with r < t.
    Expected, one step:
        digits          accuracy 0.997, coverage 0.905, Frechet 0.483 (docs/guide/re_mean_flow.md)
        imagenet256     FID 3.41 xl2 after both trainings (paper); 5 M pairs of SiT-XL/2
    """
    store = PairStore(given(pair_store, "pair_store", _PAIRS), percentile=percentile)
    objective = MeanFlow(
        times=UShaped(fraction_r_equals_t=fraction_r_equals_t),
        loss=MeanAdaptiveLoss(),
        guidance=RandomGuidance(largest=largest_scale),
        label_dropout=label_dropout,
        coupling=StoredPairs(),
    )
    network = None if start is None else lambda: network_of(start, "start")
    return Method(objective, network=network, data=store, global_clipnorm=1.0)
