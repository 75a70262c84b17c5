"""Pictures: what is drawn where."""

import numpy as np
import pytest
from PIL import Image

from keras_meanflow.pictures.samples import CELL, MARGIN, curves, draw_samples, image_grid, scatter


def test_a_grid_reads_row_by_row_from_the_top_left():
    images = np.linspace(-1, 1, 6)[:, None, None, None] * np.ones((1, CELL, CELL, 1))
    pixels = np.asarray(image_grid(images, columns=3))
    assert pixels.shape == (2 * CELL + MARGIN, 3 * CELL + 2 * MARGIN)
    middles = pixels[CELL // 2 :: CELL + MARGIN, CELL // 2 :: CELL + MARGIN]
    assert middles.tolist() == [[0, 51, 102], [153, 204, 255]]


def test_small_images_are_enlarged_in_whole_steps_and_unclipped_values_are_clipped():
    images = np.array([[-3.0, 3.0], [0.0, 1.0]]).reshape(1, 2, 2, 1)
    pixels = np.asarray(image_grid(images))
    assert pixels.shape == (CELL, CELL)
    half = CELL // 2
    assert (pixels[:half, :half] == 0).all() and (pixels[:half, half:] == 255).all()
    assert (pixels[half:, :half] == 128).all()


def test_of_latents_the_first_three_channels_are_shown():
    latents = np.zeros((1, 64, 64, 4)) + np.array([-1.0, 0.2, 1.0, 0.7])
    assert np.asarray(image_grid(latents))[5, 5].tolist() == [0, 153, 255]


def test_a_point_is_drawn_where_it_lies():
    corner, others = np.array([[1.0, 1.0]]), np.array([[-1.0, -1.0], [1.0, -1.0]])
    pixels = np.asarray(scatter(corner, others, size=100).convert("L"))
    assert (pixels[:50, 50:] < 250).any() and (pixels[50:, :50] < 250).any()
    assert (pixels[:50, :50] > 250).all()


def test_curves_falls_where_the_values_fall():
    picture = np.asarray(curves([0, 1, 2], {"falling": [100.0, 10.0, 1.0]}, columns=1).convert("L"))
    rows = [np.argmin(picture[26:174, column]) for column in (70, 230, 395)]
    assert rows[0] < rows[1] < rows[2]
    # Logarithmic: the middle value lies half-way.
    assert abs(rows[1] - (rows[0] + rows[2]) / 2) < 4


def test_bars_reach_from_end_to_end_of_their_intervals():
    lines, bars = {"fid": [2.0, 3.0]}, {"fid": [(1.0, 3.0), (1.0, 5.0)]}
    picture = np.asarray(curves([1, 4], lines, columns=1, intervals=bars).convert("L"))
    ink = [np.flatnonzero(picture[26:174, column] < 200) + 26 for column in (72, 396)]
    assert ink[1].min() < 30 and ink[0].max() > 170 and ink[1].max() > 170  # 1 to 5 is all of it
    # Logarithmic: 3 lies at log 3 / log 5 of the height.
    assert abs((174 - ink[0].min()) / 150 - np.log(3) / np.log(5)) < 0.05


def test_one_point_and_no_finite_value_still_make_a_curve():
    image = curves([5], {"one": [2.0], "none": [np.nan]})
    assert isinstance(image, Image.Image)


@pytest.mark.parametrize("shape", [(3, 5), (3,), (0, 8, 8, 1), (2, 8, 8, 2)])
def test_what_cannot_be_drawn_is_refused_by_its_shape(shape):
    with pytest.raises(ValueError, match="Received"):
        draw_samples(np.zeros(shape))
