"""Ratios of two sites over the questions that both answered."""

import math

import numpy as np
import pandas as pd
import pytest
import written

from hpcbench.analyse.paired import paired
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse


def ratio(folder, one, two):
    """Compare two sites, each with request records; the first is the baseline."""
    for site, requests in {"one": one, "two": two}.items():
        case(folder / "r" / site, site, requests)
    return ratio_of(folder)


def case(folder, site, requests, ending=written.COMPLETED, **description):
    log = written.records(*({"record": "request", "phase": "measured", "error": "", **row} for row in requests))
    headline, baseline = ["latency_mean"], {"site": "one"}
    written.case(folder, log, ending, site=site, headline=headline, baseline=baseline, **description)


def ratio_of(folder):
    [comparison] = compare(parse(written.run(folder / "r")))
    [found] = [row.ratio for row in comparison.rows if not row.is_baseline]
    return found


def asked(latencies, first=0, **columns):
    return [{"question": f"q{n}", "latency": each, **columns} for n, each in enumerate(latencies, first)]


# questions of very different length, of which the second site takes about half the time
LONG = np.random.default_rng(7).lognormal(0, 1.5, 40)
HALF = LONG / 2 * np.random.default_rng(8).normal(1, 0.01, 40)


def test_pairs_are_drawn_together():
    """Each side alone says little of its mean; each question is half as long, within a few percent."""
    names = [f"q{n}" for n in range(40)]
    one, two = pd.Series(LONG, names), pd.Series(HALF, names)
    found, low, high, pairs = paired(two, one.sample(frac=1, random_state=1))  # in whatever order they were asked
    assert (pairs, found) == (40, pytest.approx(LONG.sum() / HALF.sum()))
    assert 1.97 < low < found < high < 2.03
    draws = np.random.default_rng(1).integers(0, 40, (2, 4000, 40))
    apart = LONG[draws[0]].mean(axis=1) / HALF[draws[1]].mean(axis=1)
    assert np.subtract(*np.percentile(apart, (97.5, 2.5))) > 20 * (high - low)


def test_the_interval_of_a_comparison_is_that_of_pairs(tmp_path):
    found = ratio(tmp_path, asked(LONG.tolist()), asked(HALF.tolist()))
    assert found.pairs == 40
    assert 1.97 < found.low < found.speedup < found.high < 2.03


def test_the_interval_holds_the_true_ratio_as_often_as_it_says():
    random, inside = np.random.default_rng(3), 0
    for _ in range(200):
        base = random.gamma(4, 1, 60)
        low, high = paired(pd.Series(base / 2 * random.normal(1, 0.2, 60)), pd.Series(base))[1:3]
        inside += low <= 2 <= high
    assert 0.88 < inside / 200 < 0.99


def test_a_ratio_is_over_the_questions_that_both_answered(tmp_path):
    """The long ones failed on one side, and others were asked of one side only: they are in no ratio."""
    one = asked([2.0] * 6) + asked([90.0] * 3, 6)
    two = asked([1.0] * 6) + asked([0.1] * 3, 6, error="status 500") + asked([50.0] * 2, 20)
    found = ratio(tmp_path, one, two)
    assert (found.pairs, found.low, found.speedup, found.high) == (6, 2, 2, 2)


@pytest.mark.parametrize("count", [1, 4])
def test_few_questions_in_common_have_a_ratio_without_an_interval(tmp_path, count):
    found = ratio(tmp_path, asked([2.0] * count + [90.0] * 6), asked([1.0] * count))
    assert (found.pairs, found.speedup) == (count, 2)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_warm_up_is_in_no_ratio(tmp_path):
    one = asked([900.0] * 2, phase="warm-up") + asked([800.0] * 2, 2, phase="warm-up") + asked([2.0] * 6, 2)
    two = asked([1.0] * 2, phase="warm-up") + asked([700.0] * 2, 2, phase="warm-up") + asked([1.0] * 6, 2)
    found = ratio(tmp_path, one, two)
    assert (found.pairs, found.low, found.speedup, found.high) == (6, 2, 2, 2)


def test_a_repeat_that_did_not_complete_is_in_no_ratio(tmp_path):
    case(tmp_path / "r" / "one", "one", asked([2.0] * 6))
    case(tmp_path / "r" / "two-1", "two", asked([1.0] * 6))
    case(tmp_path / "r" / "two-2", "two", asked([9.0] * 4), written.FAILED, repeat=2)
    found = ratio_of(tmp_path)
    assert (found.pairs, found.low, found.speedup, found.high) == (6, 2, 2, 2)
