"""The distance of a model's samples to images, for the studies of this folder."""

from pathlib import Path

import numpy as np

PROTOCOLS = {"digits": "digits-lenet", "mnist": "mnist-lenet", "eurosat": "eurosat-squeezenet"}
SAMPLE_SEED = 1234


class Judge:
    """The Frechet distance of a model's samples to the training images."""

    def __init__(self, dataset, features, data, folder):
        from keras_meanflow.data import load_digits
        from keras_meanflow.evaluation import make_reference
        from keras_meanflow.evaluation.named import open_protocol
        from keras_meanflow.metrics import Reference

        self.protocol, self.extract = open_protocol(PROTOCOLS[dataset], weights=features)
        path = Path(folder) / f"{dataset}-{self.extract.name}.npz"
        if not path.exists():
            if dataset == "digits":
                images, name = self.protocol.quantise(load_digits("test")[0]), "unseen digits"
            else:
                images, name = np.load(data)["x_train"], f"{dataset} training images"
            images = images.reshape(*images.shape[:3], -1)
            batches = (images[i : i + 500] for i in range(0, len(images), 500))
            make_reference(batches, self.extract, path, name=name)
        self.reference = Reference.load(path)

    def __call__(self, flow_map, nfe, samples):
        from keras_meanflow.metrics import Statistics, frechet_distance

        statistics = Statistics()
        for first in range(0, samples, 1000):
            labels = np.arange(first, first + 1000) % 10
            images = flow_map.generate(labels, steps=nfe, seed=SAMPLE_SEED, first=first, verbose=0)
            statistics.update(self.extract(self.protocol.quantise(images))["features"])
        total = statistics.total()
        return float(
            frechet_distance(
                total.mean, total.covariance, self.reference.mean, self.reference.covariance
            )
        )
