"""Metrics on features against torch-fidelity, prdc, scipy and closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden.metrics_features import SUBSET_SIZE, SUBSETS, feature_sets

from keras_meanflow.metrics import (
    Estimate,
    InceptionScore,
    Reference,
    Statistics,
    density_coverage,
    frechet_distance,
    frechet_infinity,
    frechet_with_interval,
    inception_score,
    kid,
    kid_with_interval,
    precision_recall,
)
from keras_meanflow.metrics.estimate import jackknife
from keras_meanflow.metrics.frechet import _eigen_factor, trace_of_root, trace_of_root_scipy
from keras_meanflow.metrics.neighbours import radii
from keras_meanflow.metrics.reference import npz_images

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "metrics_features.json").read_text())


def philox(key):
    return np.random.Generator(np.random.Philox(key=key))


def statistics_of(features, *, blocks=20, batch_size=64):
    statistics = Statistics(blocks)
    for start in range(0, len(features), batch_size):
        statistics.update(features[start : start + batch_size])
    return statistics


def frechet_of(fake, real):
    a, b = statistics_of(fake), statistics_of(real)
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


def random_covariance(key, width, rank=None):
    x = philox(key).normal(size=(rank or 3 * width, width))
    return x.T @ x / len(x)


def test_frechet_distance_equals_torch_fidelity():
    real, fake, _ = feature_sets()
    golden = GOLDEN["frechet_inception_distance"]
    np.testing.assert_allclose(frechet_of(fake, real), golden, rtol=1e-6)


def test_kid_of_the_same_subsets_equals_torch_fidelity():
    real, fake, _ = feature_sets()
    mean, deviation = kid(real, fake, subsets=SUBSETS, subset_size=SUBSET_SIZE)
    np.testing.assert_allclose(mean, GOLDEN["kernel_inception_distance_mean"], rtol=1e-6)
    np.testing.assert_allclose(deviation, GOLDEN["kernel_inception_distance_std"], rtol=1e-6)


def test_inception_score_equals_torch_fidelity():
    mean, deviation = inception_score(feature_sets()[2])
    np.testing.assert_allclose(mean, GOLDEN["inception_score_mean"], rtol=1e-6)
    np.testing.assert_allclose(deviation, GOLDEN["inception_score_std"], rtol=1e-6)


def test_precision_and_recall_equal_torch_fidelity():
    real, fake, _ = feature_sets()
    golden = (GOLDEN["precision"], GOLDEN["recall"])
    np.testing.assert_allclose(precision_recall(real, fake, k=3), golden, rtol=1e-6)


def test_density_and_coverage_equal_prdc():
    real, fake, _ = feature_sets()
    golden = (GOLDEN["density"], GOLDEN["coverage"])
    np.testing.assert_allclose(density_coverage(real, fake, k=5), golden, rtol=1e-6)


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    s1, s2 = np.array([1.0, 4.0, 0.0]), np.array([9.0, 1.0, 0.25])
    turn = np.linalg.qr(philox(1).normal(size=(3, 3)))[0]  # commuting, not diagonal
    distance = frechet_distance(
        np.zeros(3), turn @ np.diag(s1) @ turn.T, np.ones(3), turn @ np.diag(s2) @ turn.T
    )
    np.testing.assert_allclose(distance, 3 + np.sum((np.sqrt(s1) - np.sqrt(s2)) ** 2), rtol=1e-12)


def test_all_routes_to_the_root_agree():
    sigma1, sigma2 = random_covariance(1, 48), random_covariance(2, 48)
    root = trace_of_root(sigma1, sigma2)
    np.testing.assert_allclose(root, trace_of_root_scipy(sigma1, sigma2), rtol=1e-9)
    eigen = _eigen_factor(sigma1).T @ _eigen_factor(sigma2)
    np.testing.assert_allclose(root, np.linalg.norm(eigen, "nuc"), rtol=1e-12)


def test_the_root_of_singular_covariances_is_that_of_the_rows():
    x, y = philox(1).normal(size=(20, 64)), philox(2).normal(size=(30, 64))
    written = np.linalg.norm(x @ y.T, "nuc") / np.sqrt(20 * 30)
    np.testing.assert_allclose(trace_of_root(x.T @ x / 20, y.T @ y / 30), written, rtol=1e-12)


@pytest.mark.parametrize("rank", [None, 20])
def test_a_set_is_at_no_distance_from_itself(rank):
    sigma = 30 * random_covariance(3, 64, rank)
    assert abs(frechet_distance(np.ones(64), sigma, np.ones(64), sigma)) < 1e-6


def test_statistics_are_those_of_numpy_far_from_the_origin():
    x = philox(4).normal(size=(4321, 7)) + 1e4
    statistics = statistics_of(x.astype("float32"), batch_size=100)
    x = x.astype("float32").astype("float64")
    assert statistics.count == 4321
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(x, rowvar=False), atol=1e-9)


@pytest.mark.parametrize("batch_size", [1, 77, 5000])
def test_neither_value_nor_interval_depends_on_the_batch_size(batch_size):
    real, fake, _ = feature_sets()
    reference = Reference.of(statistics_of(real))
    x = np.concatenate([fake] * 14)  # more rows than the 8,000 that are gathered
    whole = frechet_with_interval(statistics_of(x, batch_size=64), reference)
    other = frechet_with_interval(statistics_of(x, batch_size=batch_size), reference)
    np.testing.assert_allclose(other.value, whole.value, rtol=1e-9)
    np.testing.assert_allclose(other.standard_error, whole.standard_error, rtol=1e-6)


def test_the_values_do_not_depend_on_the_order():
    real, fake, _ = feature_sets()
    back = fake[::-1]
    np.testing.assert_allclose(frechet_of(back, real), frechet_of(fake, real), rtol=1e-9)
    np.testing.assert_allclose(
        kid_with_interval(real, back).value, kid_with_interval(real, fake).value, rtol=1e-9
    )
    assert precision_recall(real, back) == precision_recall(real, fake)
    assert density_coverage(real, back) == density_coverage(real, fake)


def test_reading_statistics_in_between_changes_nothing_later():
    x = philox(5).normal(size=(300, 3))
    read, unread = Statistics(), statistics_of(x)
    for row in x:
        read.update(row[None])
        assert read.count
    for a, b in zip(read.parts(), unread.parts(), strict=True):
        assert a.count == b.count
        np.testing.assert_allclose(a.covariance, b.covariance, atol=1e-10)


def test_merged_statistics_are_those_of_all_rows():
    x = philox(6).normal(size=(500, 5)) + 3
    merged = statistics_of(x[:201])
    merged.merge(statistics_of(x[201:]))
    np.testing.assert_allclose(merged.covariance, np.cov(x, rowvar=False), rtol=1e-10)
    fresh = Statistics()
    fresh.merge(merged)
    np.testing.assert_allclose(fresh.mean, x.mean(axis=0), rtol=1e-12)


def test_what_is_left_without_a_block_are_the_other_blocks():
    statistics = statistics_of(philox(7).normal(size=(400, 4)) + 2)
    left = statistics.total().without(statistics.parts()[3])
    others = statistics.total(j for j in range(20) if j != 3)
    assert left.count == others.count == 380
    np.testing.assert_allclose(left.covariance, others.covariance, rtol=1e-10)


def test_blocks_do_not_fall_in_step_with_labels_that_repeat():
    one_hot = np.eye(10)[np.arange(8000) % 10]
    means = np.array([part.mean for part in statistics_of(one_hot).parts()])
    assert np.ptp(means) > 0 and np.abs(means - 0.1).max() < 0.06


def test_the_jackknife_of_a_mean_is_its_textbook_standard_error():
    x = philox(8).normal(size=30)
    estimate = jackknife(x.mean(), [np.delete(x, j).mean() for j in range(30)])
    np.testing.assert_allclose(estimate.standard_error, x.std(ddof=1) / np.sqrt(30), rtol=1e-12)
    np.testing.assert_allclose(np.diff(estimate.interval), 3.92 * estimate.standard_error)


def spread_and_mean_error(measure, repeats=40):
    estimates = [measure(philox(100 + j).normal(size=(400, 8)) * 1.2) for j in range(repeats)]
    values = [estimate.value for estimate in estimates]
    return np.std(values), np.mean([estimate.standard_error for estimate in estimates])


def test_the_frechet_interval_is_as_wide_as_repeated_experiments_spread():
    reference = Reference(np.zeros(8), np.eye(8))
    spread, error = spread_and_mean_error(
        lambda x: frechet_with_interval(statistics_of(x), reference)
    )
    assert 0.7 < error / spread < 1.4


def test_the_kid_interval_is_as_wide_as_repeated_experiments_spread():
    real = philox(9).normal(size=(400, 8))
    spread, error = spread_and_mean_error(lambda x: kid_with_interval(real, x), repeats=25)
    assert 0.6 < error / spread < 1.6


def test_frechet_at_infinity_takes_away_nine_tenths_of_the_bias():
    reference = Reference(np.zeros(32), np.eye(32))
    biased, limit = [], []
    for key in range(10):
        samples = statistics_of(philox(200 + key).normal(size=(2000, 32)))
        biased.append(frechet_with_interval(samples, reference).value)
        limit.append(frechet_infinity(samples, reference))
    assert np.mean(biased) > 0.1  # the truth is 0
    assert abs(np.mean(limit)) < 0.1 * np.mean(biased)


def test_kid_of_all_pairs_is_the_unbiased_estimator_written_out():
    real, fake = philox(10).normal(size=(1200, 6)), philox(11).normal(size=(1100, 6)) + 0.3

    def kernel(x, y):
        return (x @ y.T / 6 + 1) ** 3

    def pairs(x):
        gram = kernel(x, x)
        return (gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1))

    written = pairs(real) + pairs(fake) - 2 * kernel(real, fake).mean()
    np.testing.assert_allclose(kid_with_interval(real, fake).value, written, rtol=1e-10)


def test_radii_are_the_distances_to_the_kth_neighbour():
    from scipy.spatial import cKDTree

    x = philox(12).normal(size=(1500, 3))
    distance = cKDTree(x).query(x, k=6)[0][:, 5]
    np.testing.assert_allclose(np.sqrt(radii(x, 5)), distance, rtol=1e-9)


def test_copies_of_the_reference_have_perfect_precision_and_coverage():
    real = philox(13).normal(size=(50, 400)).astype("float32") + 100
    real[:20] = real[0]  # balls of radius zero
    assert precision_recall(real, real) == (1.0, 1.0)
    assert density_coverage(real, real[20:])[1] < density_coverage(real, real)[1] == 1.0


def test_neighbour_metrics_read_features_from_disk(tmp_path):
    real, fake, _ = feature_sets()
    np.save(tmp_path / "real.npy", real)
    on_disk = np.load(tmp_path / "real.npy", mmap_mode="r")
    assert precision_recall(on_disk, fake) == precision_recall(real, fake)
    assert kid_with_interval(on_disk, fake) == kid_with_interval(real, fake)


def test_inception_score_of_certain_and_even_classes_is_their_number():
    logits = 50.0 * np.eye(10)[np.arange(100) % 10]
    assert inception_score(logits, splits=1, seed=None)[0] == pytest.approx(10)
    assert inception_score(0 * logits, splits=1)[0] == pytest.approx(1)


def test_inception_score_does_not_depend_on_the_batch_size():
    logits = feature_sets()[2]
    score = InceptionScore(len(logits))
    for start in range(0, len(logits), 77):
        score.update(logits[start : start + 77])
    np.testing.assert_allclose(score.result(), inception_score(logits), rtol=1e-12)


def test_a_reference_survives_the_disk_with_its_protocol(tmp_path):
    reference = Reference.of(statistics_of(feature_sets()[0]), {"features": "lenet"})
    reference.save(tmp_path / "reference.npz")
    loaded = Reference.load(tmp_path / "reference.npz")
    assert (loaded.count, loaded.protocol) == (700, {"features": "lenet"})
    np.testing.assert_array_equal(loaded.covariance, reference.covariance)


@pytest.mark.parametrize("prefix", ["", "ref_"])
def test_a_reference_of_others_is_read_by_its_keys(tmp_path, prefix):
    arrays = {f"{prefix}mu": np.ones(3), f"{prefix}sigma": np.eye(3), "mu_s": np.ones(7)}
    np.savez(tmp_path / "theirs.npz", **arrays)
    loaded = Reference.load(tmp_path / "theirs.npz")
    assert loaded.count is None and loaded.protocol is None
    np.testing.assert_array_equal(loaded.mean, np.ones(3))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_adm_batch_is_streamed(tmp_path, save):
    images = philox(14).integers(0, 256, size=(10, 6, 5, 3), dtype=np.uint8)
    save(tmp_path / "batch.npz", arr_0=images, mu=np.ones(3))
    batches = list(npz_images(tmp_path / "batch.npz", 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), images)


def refused(message):
    return pytest.raises(ValueError, match=message)


def test_bad_features_are_refused_by_name(tmp_path):
    statistics = statistics_of(np.ones((5, 3)))
    with refused("width 4 after width 3"):
        statistics.update(np.ones((5, 4)))
    with refused("row 2"):
        statistics.update(np.where(np.arange(5)[:, None] == 2, np.nan, np.ones((5, 3))))
    with refused("Received 2 and 3"):
        frechet_distance(np.ones(2), np.eye(2), np.ones(3), np.eye(3))
    with refused(r"\(9, 2\) real and \(9, 3\) generated"):
        kid_with_interval(np.ones((9, 2)), np.ones((9, 3)))
    with refused("must be finite"):
        Reference(np.full(2, np.nan), np.eye(2))
    with refused("covariance needs at least 2"):
        _ = statistics_of(np.ones((1, 3))).covariance
    with refused("more than 5 rows"):
        density_coverage(np.ones((5, 2)), np.ones((9, 2)))
    with refused("subset_size=1000"):
        kid(np.ones((5, 2)), np.ones((9, 2)))
    np.savez(tmp_path / "images.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    with refused("arr_0"):
        Reference.load(tmp_path / "images.npz")


def test_an_estimate_shows_its_interval():
    assert Estimate(3.0, 0.5).to_dict()["interval"] == pytest.approx([2.02, 3.98])


def test_wider_numbers_after_narrow_ones_keep_their_precision():
    x = philox(15).normal(size=(100, 3)) + 1e6
    statistics = Statistics()
    statistics.update(np.round(x[:50]).astype("float32"))
    statistics.update(x[50:])
    x[:50] = np.round(x[:50])
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-14)
