"""Pictures: what is drawn where."""

import numpy as np
import pytest

from keras_meanflow.pictures.frame import BOTTOM, LEFT, RIGHT, TOP
from keras_meanflow.pictures.samples import CELL, MARGIN, draw_samples, image_grid, scatter


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
    picture = np.asarray(scatter(corner, others, size=100).convert("L"))
    pixels = picture[TOP + 1 : TOP + 99, LEFT + 1 : LEFT + 99]  # within the frame
    assert (pixels[:49, 49:] < 180).any() and (pixels[49:, :49] < 180).any()
    assert (pixels[:49, :49] > 180).all()


def test_points_that_are_not_finite_are_left_out_and_both_axes_have_one_scale():
    points = np.array([[0.0, 0.0], [3.0, 1.0], [np.nan, 9.0]])
    image = scatter(points, size=200)
    assert image.size == (LEFT + 200 + RIGHT, TOP + 200 + BOTTOM)
    inside = np.asarray(image.convert("L"))[TOP + 1 : TOP + 199, LEFT + 1 : LEFT + 199]
    rows, columns = np.nonzero(inside < 180)
    assert np.ptp(columns) / np.ptp(rows) == pytest.approx(3, rel=0.1)
    scatter(points[2:], size=100)


@pytest.mark.parametrize("shape", [(3,), (0, 8, 8, 1), (2, 8, 8, 2)])
def test_what_cannot_be_drawn_is_refused_by_its_shape(shape):
    with pytest.raises(ValueError, match="Received"):
        draw_samples(np.zeros(shape))
