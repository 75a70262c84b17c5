"""MeanFlow-family generative models for Keras 3: one network, one step, three backends.

Here are the names that one meets first; each folder is a package with the rest:
`networks`, `objectives`, `parts` (time laws, losses, schedules, ...), `samplers`, `optimizers`,
`codecs`, `formats`, `data`, `evaluation`, `training`, `studies`, `speech`.
"""

import importlib

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
