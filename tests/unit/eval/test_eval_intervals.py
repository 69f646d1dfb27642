"""Intervals hold what they say where a bootstrap does not: near 0 and 1, and with few images."""

import numpy as np
import pytest

from medllava.eval.report.html_sections import format_estimate
from medllava.eval.score.intervals import bootstrap, holm, share_interval, student_t


def estimate(values, clusters):
    column = np.array(values, dtype=float)[:, None]
    return bootstrap(column, np.array(clusters), draws=200, seed=0).estimate(0)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_or_everything_right_is_no_single_point(value):
    found = estimate([value] * 30, range(30))
    assert found.value == value
    assert 0.05 < found.high - found.low < 0.2
    assert found.low <= value <= found.high


def test_independent_questions_give_wilsons_interval():
    """10 of 100 right, one question per image, so nothing is to be known of images: by hand."""
    t, n, p = 1.959964, 100, 0.1
    center = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (p * (1 - p) / n + t * t / (4 * n * n)) ** 0.5
    low, high = share_interval(np.array([1.0] * 10 + [0.0] * 90), np.ones(100), is_binary=True)
    assert (low, high) == pytest.approx((center - half, center + half), abs=1e-4)


def test_images_that_differ_cost_students_t():
    """Four equal answers about each of ten images: ten draws, so Wilson of 10 with t(9)."""
    t, n, p = student_t(9), 10, 0.5
    center = (p + t * t / (2 * n)) / (1 + t * t / n)
    half = t / (1 + t * t / n) * (p * (1 - p) / n + t * t / (4 * n * n)) ** 0.5
    found = share_interval(np.array([4.0, 0.0] * 5), np.full(10, 4.0), is_binary=True)
    assert found == pytest.approx((center - half, center + half), abs=1e-3)


def test_questions_about_one_image_that_agree_widen_the_interval():
    alike = share_interval(np.array([4.0, 0.0] * 20), np.full(40, 4.0), is_binary=True)
    mixed = share_interval(np.array([2.0] * 40), np.full(40, 4.0), is_binary=True)
    assert alike[1] - alike[0] > 1.6 * (mixed[1] - mixed[0])


@pytest.mark.parametrize(("accuracy", "images"), [(0.95, 20), (0.99, 96), (0.5, 20)])
def test_coverage_is_near_what_is_promised(accuracy, images):
    rng = np.random.default_rng(0)
    counts = np.full(images, 5.0)
    hits = 0
    for sums in rng.binomial(5, accuracy, (600, images)).astype(float):
        low, high = share_interval(sums, counts, is_binary=True)
        hits += low <= accuracy <= high
    # A bootstrap covers 27 to 92 % here; 600 draws scatter by a percent.
    assert hits / 600 > 0.93


def test_numbers_that_are_no_shares_keep_the_bootstrap():
    found = estimate([3.0, 5.0, 9.0, 11.0], range(4))
    assert 3 <= found.low < found.value < found.high <= 11


def test_rows_that_rest_on_few_images_are_marked():
    few, many = (estimate([1.0, 0.0] * (n // 2), range(n)).to_json() for n in (10, 40))
    assert format_estimate(few).startswith("50.0* [")
    assert format_estimate(many).startswith("50.0 [")


def test_students_t_is_that_of_the_tables():
    table = {1: 12.706, 2: 4.303, 3: 3.182, 10: 2.228, 30: 2.042, 202: 1.972}
    for degrees, value in table.items():
        assert student_t(degrees) == pytest.approx(value, rel=2e-3)


def test_holm_corrects_step_by_step():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
