"""Re-MeanFlow: MeanFlow on the straight lines between stored pairs."""

from keras_meanflow import MeanFlow
from keras_meanflow.data import PairStore
from keras_meanflow.parts import MeanAdaptiveLoss, StoredPairs, UShaped
from keras_meanflow.recipe import method
from keras_meanflow.training import Method, Task
from keras_meanflow.training.method import network_of
from keras_meanflow.training.task import given

_PAIRS = "a pair store, made by keras-meanflow reflow"


@method(needs=("noise",))
def re_mean_flow(
    task: Task,
    *,
    pair_store: str | None = None,
    percentile: float = 90.0,
    start: str | None = None,
    fraction_r_equals_t: float = 0.75,
    label_dropout: float = 0.1,
) -> Method:
    """Re-MeanFlow: MeanFlow on the straight lines between the noise and samples of a teacher.

    start is the run of the teacher: the network is initialised with its weights. None trains from
    scratch and needs more steps. percentile keeps only pairs up to this percentile of the distance.

    Paper: Flow Straighter and Faster: Re-MeanFlow (arXiv 2511.23342), Alg. 1.
    Command: keras-meanflow train digits --method re_mean_flow --set pair_store=PAIRS
        --set start=runs/digits_flow_matching
    Data: keras-meanflow reflow RUN PAIRS -n 20000, with a flow model RUN
        (docs/guide/re_mean_flow.md).
    Cost: as mean_flow, and before it the teacher and its pairs.
    Expected, one step:
        digits          accuracy 0.997, coverage 0.905, Frechet 0.483 (docs/guide/re_mean_flow.md)
        imagenet256     FID 3.41 xl2 after both trainings (paper); 5 M pairs of SiT-XL/2
    """
    store = PairStore(given(pair_store, "pair_store", _PAIRS), percentile=percentile)
    objective = MeanFlow(
        times=UShaped(fraction_r_equals_t=fraction_r_equals_t),
        loss=MeanAdaptiveLoss(),
        label_dropout=label_dropout,
        coupling=StoredPairs(),
    )
    network = None if start is None else lambda: network_of(start, "start")
    return Method(objective, network=network, data=store)
