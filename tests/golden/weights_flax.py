"""Writes `weights_flax.msgpack`: a small tree as flax packs it. Run by hand, with flax:

python tests/golden/weights_flax.py
"""

from pathlib import Path

import numpy as np


def tree():
    """Nested names, scalars, and arrays on both sides of each length that changes the header."""
    ramp = np.arange(400, dtype="float32")
    return _sorted(_tree(ramp))


def _sorted(value):
    """As flax sorts it."""
    if not isinstance(value, dict):
        return value
    return {key: _sorted(value[key]) for key in sorted(value)}


def _tree(ramp):
    return {
        "params": {
            "net": {
                "kernel": ramp[:6].reshape(2, 3),
                "a name of more than thirty-one letters": ramp[:1],
                "half": ramp[:3].astype("float16"),
                "long": ramp,
                "whole": np.arange(5, dtype="int32"),
                "scalar": np.array(2.5, "float32"),
            },
            **{str(i): ramp[:i] for i in range(17)},
        },
        "step": 70_000,
        "small": 3,
    }


def main():
    from flax import serialization

    Path(__file__).with_suffix(".msgpack").write_bytes(serialization.msgpack_serialize(tree()))


if __name__ == "__main__":
    main()
