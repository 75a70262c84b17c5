"""The weights after six steps of Adam with labels, of three objectives, trained on JAX.

Labels repeat in a batch, so the gradient of the label table has rows that several samples share.

    KERAS_BACKEND=jax PYTHONPATH=.:tests python tests/golden/adam_with_labels.py
"""

import json
from pathlib import Path

import keras
import numpy as np
from oracles import randomise

from keras_meanflow import FlowMap, Guidance, MeanFlow
from keras_meanflow.networks import MLP
from keras_meanflow.objectives import AlphaFlow, SplitMeanFlow

PATH = Path(__file__).with_suffix(".json")
X = np.random.default_rng(0).standard_normal((48, 3)).astype("float32")
Y = (np.arange(48) % 3).astype("int32")
CASES = {
    "MeanFlow, Adam": (
        lambda: MeanFlow(guidance=Guidance(omega=1.0, kappa=0.5), label_dropout=0.3),
        lambda: keras.optimizers.Adam(3e-3),
    ),
    "SplitMeanFlow, AdamW": (
        lambda: SplitMeanFlow(label_dropout=0.3),
        lambda: keras.optimizers.AdamW(3e-3, weight_decay=0.1),
    ),
    "AlphaFlow, Adam, clipped": (
        lambda: AlphaFlow(alpha=0.5),
        lambda: keras.optimizers.Adam(3e-3, global_clipnorm=0.1),
    ),
}


def weights_after_six_steps(case: str) -> dict[str, np.ndarray]:
    """The label table and the last kernel."""
    objective, optimizer = (make() for make in CASES[case])
    network = randomise(MLP(data_size=3, width=8, depth=1, num_classes=3))
    flow_map = FlowMap(network, objective, averages=())
    flow_map.compile(optimizer, jit_compile=False)
    flow_map.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    weights = {"labels": network.labels.embeddings, "out": network.out.kernel}
    return {k: keras.ops.convert_to_numpy(v) for k, v in weights.items()}


if __name__ == "__main__":
    golden = {
        case: {k: v.tolist() for k, v in weights_after_six_steps(case).items()} for case in CASES
    }
    PATH.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
