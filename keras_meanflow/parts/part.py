"""Small immutable parts (paths, samplers, objectives) that save and load with the model."""

import dataclasses
from typing import Any, Self, TypeVar, dataclass_transform

import keras

from keras_meanflow.parts.ranges import check_finite

register = keras.saving.register_keras_serializable("keras_meanflow")
Class = TypeVar("Class", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def part(cls: Class) -> Class:
    """A frozen keyword-only dataclass that Keras can save: the form of every part of a method.

    It refuses numbers that are NaN or infinite, before it makes the checks of `__post_init__`.
    """
    check = getattr(cls, "__post_init__", lambda self: None)

    def __post_init__(self):
        check_finite(**fields_of(self))
        check(self)

    cls.__post_init__ = __post_init__
    return register(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


def fields_of(part: Any) -> dict[str, Any]:
    """The fields of a part by name, from which a changed copy can be made."""
    return {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}


class Configurable:
    """`get_config` and `from_config` for a dataclass whose fields may be parts themselves."""

    def get_config(self) -> dict[str, Any]:
        """The fields by name, serialised by Keras."""
        fields = fields_of(self)
        return {name: keras.saving.serialize_keras_object(part) for name, part in fields.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The object with these fields; lists become tuples, the type that fields use."""
        fields = {k: keras.saving.deserialize_keras_object(v) for k, v in config.items()}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
