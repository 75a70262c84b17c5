"""MeanFlow-family generative models for Keras 3: one network, one step, three backends.

Here are the names that one meets first; each folder is a package with the rest:
`networks`, `objectives`, `parts` (time laws, losses, schedules, ...), `samplers`, `optimizers`,
`codecs`, `formats`, `data`, `evaluation`, `training`, `studies`, `speech`.
"""

import importlib
import importlib.abc
import importlib.util
import sys

__version__ = "0.2.0"

_NAMES = {
    "FlowMap": "flow_map",
    "DiT": "networks",
    "UNet": "networks",
    "MeanFlow": "objectives",
    "FlowMatching": "objectives",
    "LogitNormal": "parts",
    "Guidance": "objectives",
    "Curriculum": "flow_map",
    "Heun": "samplers",
    "open_model": "flow_map",
}
__all__ = [*_NAMES, "__version__"]


def __getattr__(name):
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__():
    return __all__


# They choose the backend, or are read before it. Of `files`, these modules need Keras.
_BEFORE_KERAS = ("cli", "recipe", "training", "files")
_FILES_AFTER_KERAS = ("files.provenance", "files.saved", "files.torch_weights")

# `keras.models.load_model` finds a saved class once its module has been imported. These modules
# import Keras, and with it the backend, which the command line must choose first: so they are
# imported when Keras is.


def _register():
    """Import every module with classes that Keras saves."""
    for package in ("flow_map", "codecs", "speech.stft"):
        importlib.import_module(f"{__name__}.{package}")


class _Registered(importlib.abc.Loader):
    """Gives a module that `_register` has imported while it was looked for."""

    def __init__(self, module):
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec):
        return self.module

    def exec_module(self, module):
        module.__spec__ = self.spec


class _AfterKeras(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `_register` follow the import of Keras, and Keras come before our packages."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.partition(".")
        before = name.partition(".")[0] in _BEFORE_KERAS and name not in _FILES_AFTER_KERAS
        if package == __name__ and not before:
            return self._after_keras(fullname)
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        sys.meta_path.insert(0, self)
        if spec is not None:
            self.loader, spec.loader = spec.loader, self
        return spec

    def _after_keras(self, fullname):
        """A package's spec. It must not import Keras half-way: `_register` needs it whole."""
        importlib.import_module("keras")
        if fullname not in sys.modules:
            return importlib.util.find_spec(fullname)
        return importlib.util.spec_from_loader(fullname, _Registered(sys.modules[fullname]))

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        sys.meta_path.remove(self)
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        _register()


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras())
