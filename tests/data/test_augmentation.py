"""EDM's augmentation against the code of py-meanflow on the same draws, and its distribution."""

from pathlib import Path

import numpy as np
import pytest
from golden.augmentation import images

from keras_meanflow.data import ArraySource, Batches, EDMAugmented
from keras_meanflow.data.augmentation import Augmentation, augment

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "augmentation.npz")


def _published():
    return Augmentation(*(GOLDEN[name] for name in Augmentation._fields))


def test_images_are_altered_as_the_authors_code_does_it():
    out = augment(images(), _published())
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, GOLDEN["out"], atol=1e-5)
    moved = np.abs(GOLDEN["out"] - images()).max(axis=(1, 2, 3))
    assert (moved > 0.1).sum() >= 5  # the golden file alters most of its images


def _source(**kwargs):
    x = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype("uint8")
    return EDMAugmented(ArraySource(x, np.arange(50) % 5), **kwargs)


def test_the_labels_say_what_was_done():
    source = _source(p=1.0)
    how, labels = source._draw(200, np.random.default_rng(1))
    expected = np.stack(
        [
            how.mirror,
            how.scale / 0.2,
            how.stretch / 0.2 * np.cos(how.angle),
            how.stretch / 0.2 * np.sin(how.angle),
            how.shift[:, 0] / 0.125,
            how.shift[:, 1] / 0.125,
        ],
        axis=1,
    )
    np.testing.assert_allclose(labels, expected, atol=1e-6)
    published = _published()
    pairs = [(published.mirror, 0), (published.scale / 0.2, 1), (published.shift[:, 0] / 0.125, 4)]
    pairs += [(published.stretch / 0.2 * np.sin(published.angle), 3)]
    for array, column in pairs:
        np.testing.assert_allclose(array, GOLDEN["labels"][:, column], atol=1e-6)


def test_each_alteration_has_its_probability_and_spread():
    _, labels = _source(p=0.12)._draw(100_000, np.random.default_rng(2))
    assert np.mean(labels[:, 0]) == pytest.approx(0.5, abs=0.01)
    for column in (1, 4, 5):
        assert np.mean(labels[:, column] != 0) == pytest.approx(0.12, abs=0.005)
        drawn = labels[labels[:, column] != 0, column]
        assert (np.mean(drawn), np.std(drawn)) == pytest.approx((0.0, 1.0), abs=0.03)
    stretched = labels[labels[:, 2] != 0]
    assert len(stretched) / len(labels) == pytest.approx(0.12, abs=0.005)
    assert np.mean(stretched[:, 3] != 0) == pytest.approx(0.5, abs=0.02)


def test_an_image_that_is_not_moved_is_mirrored_or_untouched():
    x = images()
    zero = np.zeros(8)
    how = Augmentation(np.arange(8) % 2 == 1, zero, zero, zero, np.zeros((8, 2)))
    out = augment(x, how)
    np.testing.assert_array_equal(out[::2], x[::2])
    np.testing.assert_array_equal(out[1::2], x[1::2, :, ::-1])


def test_batches_are_a_pure_function_of_seed_and_step():
    batches = Batches(_source(labelled=True), 8, seed=3)
    x, condition = batches[5]
    again, same = Batches(batches.source, 8, seed=3, first_step=5)[0]
    np.testing.assert_array_equal(x, again)
    for name in ("labels", "augmentation"):
        np.testing.assert_array_equal(condition[name], same[name])
    assert set(_source().draw(np.arange(3), np.random.default_rng(0))[1]) == {"augmentation"}


def test_what_cannot_be_augmented_is_refused():
    with pytest.raises(ValueError, match="Only images are augmented"):
        EDMAugmented(ArraySource(np.zeros((5, 3), "float32")))
    with pytest.raises(ValueError, match="needs a source with labels"):
        EDMAugmented(ArraySource(np.zeros((5, 8, 8, 3), "uint8")), labelled=True)
