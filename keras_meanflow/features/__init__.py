"""Feature networks for metrics of images, and the resizing of images for them.

Inception, DINOv2, SqueezeNet and LeNet are Keras models with the outputs of the published networks.
`FeatureExtractor` resizes a batch of images and calls one of them.
"""

from keras_meanflow.features.extractor import FeatureExtractor
from keras_meanflow.features.published import fetch_weights

__all__ = [
    "FeatureExtractor",
    "fetch_weights",
]
