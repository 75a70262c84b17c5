"""The cells of the study of docs/results/improved_training.md: objectives by name."""

import dataclasses

import numpy as np

EASY = {"stages": 20, "patience": 10}  # 20 stages in a run of 4,000 steps
V, X, E = "velocity", "data", "noise"  # the three forms of MinSNR

# Cell: what differs from the baseline. `share_of` is a cell whose share of the weight on v this
# flat weight has. `flat` is a flat weight of the rows r = t; 0.4 is the mean of snr_v.
CELLS = {
    "baseline": {},
    "flat_0.4": {"flat": 0.4},
    "beta": {"beta": True},
    "snr_v": {"min_snr": V},
    "snr_x": {"min_snr": X},
    "snr_e": {"min_snr": E},
    "snr_v_beta": {"min_snr": V, "beta": True},
    "snr_x_beta": {"min_snr": X, "beta": True},
    "snr_e_beta": {"min_snr": E, "beta": True},
    "flat_as_snr_x": {"share_of": "snr_x"},
    "flat_as_snr_e": {"share_of": "snr_e"},
    "flat_as_temf": {"share_of": "temf"},
    "dtd_t_beta": {"easy": "t", "beta": True},
    "dtd_diagonal_beta": {"easy": "diagonal", "beta": True},
    "dtd_interval_beta": {"easy": "interval", "beta": True},
    "temf": {"own_rows": True},
}
GROUPS = {
    "all": list(CELLS),
    "first": ["baseline", "beta", "snr_v_beta", "flat_0.4"],
    "images": [
        "baseline", "flat_0.4", "beta", "snr_e_beta", "snr_v_beta", "dtd_interval_beta",
        "temf",
    ],
}  # fmt: skip


def rows_of(name, fraction):
    """What must be equal for cells to share a compiled step: the share of rows r = t at least."""
    return 0.1 if CELLS[name].get("own_rows") else fraction


def objective_of(base, fraction, name):
    """The objective of a cell at a share of rows r = t, made from the task's `MeanFlow`."""
    from keras_meanflow.flow_map import improved_training

    cell = CELLS[name]
    if cell.get("own_rows"):
        return temf(base)
    times = dataclasses.replace(base.times, fraction_r_equals_t=fraction)
    base = dataclasses.replace(base, times=times)
    if "flat" in cell:
        return dataclasses.replace(base, v_share=share(fraction, cell["flat"]))
    if "share_of" in cell:
        return dataclasses.replace(base, v_share=share_of(base, fraction, cell["share_of"]))
    scheme = dict(gamma=None, exponent=None)
    scheme |= {"gamma": 5.0, "min_snr": cell["min_snr"]} if "min_snr" in cell else {}
    scheme |= {"exponent": 1.0} if "beta" in cell else {}
    scheme |= {"easy": cell["easy"], **EASY} if "easy" in cell else {}
    return improved_training(base, **scheme).changed(base)


def share(fraction, mean_v, mean_u=1.0):
    """The share of the weight on rows r = t, for the mean weights of both kinds of rows."""
    v, u = fraction * mean_v, (1.0 - fraction) * mean_u
    return v / (v + u)


def share_of(base, fraction, name):
    """The share of the weight on v of a scheme: a number, or over progress for TEMF."""
    from keras_meanflow.parts import Piecewise

    other = objective_of(base, fraction, name)
    if name != "temf":
        return share(fraction, float(other._means["alpha"][0]))
    points = np.linspace(0.0, 1.0, 33)
    fractions = [float(other.times.fraction_r_equals_t(p)) for p in points]
    mean_u = float(other._means["beta"][0])
    return Piecewise(at=tuple(points), values=tuple(share(f, 1.0, mean_u) for f in fractions))


def temf(base):
    """The objective of the method `temporal_equilibrium_mean_flow`."""
    from keras_meanflow.parts import FallingGap, Sigmoid

    fraction = Sigmoid(start=0.9, end=0.1, steepness=8.0, middle=0.6)
    times = dataclasses.replace(base.times, fraction_r_equals_t=fraction)
    return dataclasses.replace(base, times=times, beta=FallingGap())
