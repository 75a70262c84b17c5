"""The peak rates of accelerators, to compare a training step with."""

from typing import NamedTuple


class Peak(NamedTuple):
    """Dense products in 1e12 operations per second, from the data sheet; None if not supported.

    `tf32`: products of float32 inputs, rounded to TF32, or to bfloat16 on a TPU.
    """

    bfloat16: float | None
    tf32: float | None
    float32: float | None


PEAKS = {  # part of the device's name in lower case; longer parts first
    "h100 pcie": Peak(756.0, 378.0, 51.0),
    "h100": Peak(989.0, 494.0, 67.0),
    "h200": Peak(989.0, 494.0, 67.0),
    "a100": Peak(312.0, 156.0, 19.5),
    "l40s": Peak(362.0, 183.0, 91.6),
    "a10g": Peak(70.0, 35.0, 31.2),
    "t4": Peak(None, None, 8.1),
    "v100-pcie": Peak(None, None, 14.0),
    "v100": Peak(None, None, 15.7),
    "rtx 4090": Peak(165.2, 82.6, 82.6),
    "rtx 3090": Peak(71.0, 35.6, 35.6),
    "tpu v6 lite": Peak(918.0, 918.0, None),
    "tpu v5 lite": Peak(197.0, 197.0, None),
    "tpu v5": Peak(459.0, 459.0, None),
    "tpu v4": Peak(275.0, 275.0, None),
}


_WHOLE = {"nvidia l4": Peak(121.0, 60.0, 30.3)}  # the whole name: other names begin with it


def peak_of(device: str, products: str) -> float | None:
    """The peak of a device in 1e12 operations per second, or None if it is unknown.

    Args:
        device: the name that the backend gives it.
        products: "bfloat16", "tf32" or "float32".

    Example:
        >>> peak_of("NVIDIA A100-SXM4-80GB", "bfloat16")
        312.0
    """
    device = device.lower()
    found = _WHOLE.get(device) or next((p for name, p in PEAKS.items() if name in device), None)
    return None if found is None else getattr(found, products)
