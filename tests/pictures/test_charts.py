"""Charts and maps: what is drawn where."""

import numpy as np
import pytest
from PIL import ImageColor

from keras_meanflow.pictures.charts import (
    PANEL,
    SIZE,
    Series,
    curves,
    heat_map,
    line_chart,
    side_by_side,
)
from keras_meanflow.pictures.frame import COLOURS, LEGEND, Frame, log_ticks, ticks, widened

LABELS = dict(title="title", x_label="x", y_label="y")
FRAME = Frame((0, 1), (0, 1), size=SIZE, beside=LEGEND)


def _rows_of(image, colour, column, near=60):
    """Rows of a column within the frame that have nearly a colour, sums of differences below."""
    pixels = np.asarray(image)[: FRAME.bottom, column].astype(int)
    return np.flatnonzero(np.abs(pixels - ImageColor.getrgb(colour)).sum(axis=1) < near)


def test_each_line_has_its_colour_and_lies_where_its_values_are():
    x = [0.0, 1.0, 2.0]
    lines = {"up": Series(x=x, y=[0.0, 5.0, 10.0]), "flat": Series(x=x, y=[5.0, 5.0, 5.0])}
    image = line_chart(lines, **LABELS)
    assert image.size == SIZE
    quarter = FRAME.left + (FRAME.right - FRAME.left) // 4
    up, flat = (_rows_of(image, colour, quarter).mean() for colour in COLOURS[:2])
    middle = (FRAME.top + FRAME.bottom) / 2
    assert abs(flat - middle) < 2 and up > middle + 20


def test_a_logarithmic_axis_has_equal_ratios_at_equal_distances():
    image = line_chart({"a": Series(x=[0, 1, 2], y=[1.0, 10.0, 100.0])}, **LABELS)
    columns = [FRAME.left + round(share * (FRAME.right - FRAME.left)) for share in (0.25, 0.75)]
    low, high = (_rows_of(image, COLOURS[0], column).mean() for column in columns)
    # At a quarter 3.2, at three quarters 32: both as far from the middle.
    assert abs((low + high) / 2 - (FRAME.top + FRAME.bottom) / 2) < 2


def test_intervals_are_bars_and_points_that_are_not_finite_are_left_out():
    series = Series(x=[2, 0, 1], y=[5, 1, np.nan], low=[0, 1, 1], high=[10, 1, 1])
    np.testing.assert_array_equal(series.points(), [[0, 1, 1, 1], [2, 5, 0, 10]])
    image = line_chart({"a": series}, **LABELS)
    right = range(FRAME.right - 20, FRAME.right)
    bar = [_rows_of(image, COLOURS[0], column, near=300) for column in right]  # thin: blended
    span = max(np.ptp(rows) if len(rows) else 0 for rows in bar)
    assert span > 0.85 * (FRAME.bottom - FRAME.top)


@pytest.mark.parametrize(
    "low, high, expected",
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3, 3, [-3, -2, -1, 0, 1, 2, 3][1:-1]),
     (0.01, 0.032, [0.01, 0.015, 0.02, 0.025, 0.03]), (0, 4000, [0, 1000, 2000, 3000, 4000])],
)  # fmt: skip
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    found = ticks(low, high)
    assert set(np.round(expected, 9)) <= set(np.round(found, 9)) and len(found) <= 7
    assert min(found) >= low and max(found) <= high + 1e-12


def test_logarithmic_ticks_are_decades_and_halves_of_them_where_there_is_room():
    assert log_ticks(0.8, 12) == pytest.approx([1, 2, 5, 10])
    assert log_ticks(1e-3, 1e3) == pytest.approx([1e-3, 1e-2, 0.1, 1, 10, 100, 1e3])
    assert log_ticks(1e-9, 1e9) == pytest.approx(10.0 ** np.arange(-9, 10, 3))
    assert log_ticks(2800, 4600) == pytest.approx([3000, 3500, 4000, 4500])
    assert log_ticks(4, 13) == pytest.approx([4, 6, 8, 10, 12])


def test_a_map_is_dark_where_small_bright_where_large_white_where_nothing_is():
    values = np.array([[1.0, np.nan], [2.0, 9.0]])
    pixels = np.asarray(heat_map(values, [0.25, 0.75], [0.25, 0.75], **LABELS)).astype(int)
    third = [(FRAME.top + round(share * (FRAME.bottom - FRAME.top))) for share in (0.15, 0.85)]
    columns = [FRAME.left + round(share * (FRAME.right - FRAME.left)) for share in (0.15, 0.85)]
    top_left, top_right = (pixels[third[0], column].sum() for column in columns)
    bottom_left, bottom_right = (pixels[third[1], column].sum() for column in columns)
    assert bottom_left < top_left < top_right < bottom_right == 3 * 255


def _panel_of(x_range, y_range):
    """The frame of a panel of `curves` on a logarithmic axis."""
    return Frame(widened(*x_range), widened(*y_range, log=True), size=PANEL, log=True)


def test_a_curve_lies_where_its_values_are_on_a_logarithmic_axis():
    image = curves([0, 1, 2], {"falling": [100.0, 10.0, 1.0]}, columns=1)
    frame, pixels = _panel_of((0, 2), (1, 100)), np.asarray(image).astype(int)
    assert image.size == PANEL
    for x, y in ((0, 100), (0.5, 10**1.5), (1, 10), (2, 1)):
        assert pixels[round(frame.y(y)), round(frame.x(x))] @ [1, 1, 1] < 400


def test_bars_of_curves_reach_from_end_to_end_of_their_intervals():
    lines, bars = {"fid": [2.0, 3.0]}, {"fid": [(1.0, 3.0), (1.0, 5.0)]}
    image = curves([1, 4], lines, columns=1, intervals=bars)
    frame, pixels = _panel_of((1, 4), (1, 5)), np.asarray(image.convert("L"))
    for x, (low, high) in zip((1, 4), bars["fid"], strict=True):
        columns = slice(round(frame.x(x)) - 1, round(frame.x(x)) + 2)
        inside = pixels[frame.top + 2 : frame.bottom - 1, columns]
        ink = np.flatnonzero((inside < 180).any(axis=1)) + frame.top + 2
        assert abs(ink.min() - frame.y(high)) < 2 and abs(ink.max() - frame.y(low)) < 2


def test_panels_of_curves_go_row_by_row_and_no_finite_value_makes_an_empty_one():
    image = curves([5, 6], {"one": [2.0, np.nan], "none": [np.nan, np.inf], "zero": [0, 0]})
    assert image.size == (2 * PANEL[0], 2 * PANEL[1])
    assert curves([5], {"one": [2.0]}, columns=1).size == PANEL


def test_an_empty_chart_one_point_and_equal_values_are_drawn():
    for series in (Series(x=[], y=[]), Series(x=[1], y=[2]), Series(x=[1, 2], y=[0, 0])):
        one = line_chart({"a": series}, **LABELS)
    both = side_by_side([one, heat_map([[3.0]], [0.5], [0.5], **LABELS)])
    assert both.size == (2 * SIZE[0], SIZE[1])
