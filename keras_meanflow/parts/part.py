"""Small immutable parts (paths, samplers, objectives) that save and load with the model."""

import dataclasses

import keras

register = keras.saving.register_keras_serializable("keras_meanflow")


def part(cls):
    """A frozen keyword-only dataclass that Keras can save: the form of every part of a method."""
    return register(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


def fields_of(part):
    """The fields of a part by name, to make another with some of them changed."""
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


class Configurable:
    """`get_config` and `from_config` for a dataclass whose fields may be parts themselves."""

    def get_config(self):
        """The fields by name, serialised by Keras."""
        fields = fields_of(self)
        return {name: keras.saving.serialize_keras_object(part) for name, part in fields.items()}

    @classmethod
    def from_config(cls, config):
        """The object with these fields; sequences become tuples, as fields have them."""
        fields = {k: keras.saving.deserialize_keras_object(v) for k, v in config.items()}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
