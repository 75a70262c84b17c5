"""Stands in for torchvision, which torch-fidelity imports and these comparisons never call."""

import sys
import types


class _Stub(types.ModuleType):
    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def install():
    """Makes every torchvision module that torch-fidelity imports importable, and empty."""
    root = sys.modules["torchvision"] = _Stub("torchvision")
    for name in ("datasets", "models", "transforms"):
        _add(root, name)
    _add(root.transforms, "functional")


def _add(parent, name):
    full = f"{parent.__name__}.{name}"
    sys.modules[full] = _Stub(full)
    setattr(parent, name, sys.modules[full])
