"""Feature networks that images are measured by, and how images are resized for them.

Inception, DINOv2, SqueezeNet and LeNet are Keras models that compute what the published networks
compute. `FeatureExtractor` resizes, calls one of them and collects features batch by batch.
"""

from keras_meanflow.features.extractor import (
    FeatureExtractor,
)
from keras_meanflow.features.published import (
    fetch_weights,
)

__all__ = [
    "FeatureExtractor",
    "fetch_weights",
]
