"""A network that is made of another one."""

from typing import Any, Self

import keras

from keras_meanflow.backend import Tensor
from keras_meanflow.backend.random import Keys
from keras_meanflow.networks.base import Condition, Network


class Around(Network):
    """Base of networks around another one, `network`, whose data and condition they take."""

    def __init__(self, network: Network, **kwargs: Any) -> None:
        super().__init__(
            data_shape=network.data_shape,
            num_classes=network.num_classes,
            condition_shape=network.condition_shape,
            optional_shape=network.optional_shape,
            **kwargs,
        )
        self.network = network
        self.built = True

    @property
    def reads_by_name(self) -> bool:
        """See `Network`."""
        return self.network.reads_by_name

    def training_condition(self, condition: Condition, keys: Keys, rows: Tensor) -> Condition:
        """See `Network.training_condition`."""
        return self.network.training_condition(condition, keys, rows)

    def drop_condition(self, condition: Condition, drop: Tensor) -> Condition:
        """See `Network.drop_condition`."""
        return self.network.drop_condition(condition, drop)

    def check_condition(self, condition: Condition, *, values: bool = True) -> None:
        """See `Network.check_condition`."""
        self.network.check_condition(condition, values=values)

    def get_config(self) -> dict:
        """The network."""
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config: dict) -> Self:
        """The network around the one of this configuration."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})
