import numpy as np
import pandas as pd
import pytest
import written

from hpcbench.parse import parse
from hpcbench.parse.steady import first_steady

RNG = np.random.default_rng(7)


def series(*parts):
    return np.concatenate([RNG.normal(mean, mean * spread, count) for mean, spread, count in parts])


@pytest.mark.parametrize(("values", "least", "most"), [
    (series((10, 0.02, 200)), 0, 0),
    (series((90, 0.01, 1), (10, 0.02, 200)), 1, 1),
    (series((30, 0.05, 20), (10, 0.02, 200)), 19, 22),
    (10 + 20 * np.exp(-np.arange(300) / 10) + RNG.normal(0, 0.1, 300), 20, 60),
    (np.concatenate([series((10, 0.02, 100)), [80], series((10, 0.02, 100))]), 0, 0),  # a slow step is no warm-up
    (np.full(100, 3.0), 0, 0),
    (series((5, 0.02, 1), (10, 0.02, 6)), 0, 0),  # too few to say
    (np.array([]), 0, 0),
])  # fmt: skip
def test_where_a_series_becomes_steady(values, least, most):
    assert least <= first_steady(values) <= most


def test_values_that_are_none_do_not_shift_the_place():
    values = series((50, 0.02, 5), (10, 0.02, 100))
    values[2] = np.nan
    assert 5 <= first_steady(values) <= 10


def steps(*times, **columns):
    return "".join(
        written.records({"record": "step", "step": number, "step_time": float(time), **columns})
        for number, time in enumerate(times)
    )


def steady(tmp_path, text):
    file = tmp_path / "a.log"
    file.write_text(text)
    return parse(file, cache=False).steps


def test_what_the_log_calls_warm_up_is_taken(tmp_path):
    table = steady(tmp_path, written.records(*written.steps([9, 9, 9, 1, 1, 1], warmup=2)))
    assert list(table.steady) == [False, False, True, True, True, True]


def test_a_log_that_says_there_was_no_warm_up_is_believed(tmp_path):
    table = steady(tmp_path, steps(*series((90, 0.02, 3), (10, 0.02, 50)), warmup=False))
    assert table.steady.all()


def test_warm_up_is_found_where_nothing_says(tmp_path):
    table = steady(tmp_path, steps(*series((90, 0.02, 3), (10, 0.02, 50))))
    excluded = list(np.flatnonzero(~table.steady))
    assert excluded[:3] == [0, 1, 2]
    assert len(excluded) <= 6
    assert not table.warmup.any()


def test_of_several_ranks_the_first_speaks_for_all(tmp_path):
    text = "".join(
        written.records({"record": "step", "step": step, "rank": rank, "step_time": 1.0 + rank})
        for step in range(12)
        for rank in (1, 0)
    )
    table = steady(tmp_path, text)
    assert set(table[table.steady]["rank"]) == {0}
    assert table.steady.sum() == 12


def test_the_first_step_after_a_checkpoint_is_not_steady(tmp_path):
    pause = written.records({"record": "event", "kind": "checkpoint_end"})
    later = "".join(written.records({"record": "step", "step": step, "step_time": 10.0}) for step in (3, 4))
    table = steady(tmp_path, pause + steps(*[10] * 3) + pause + later)
    assert list(table.steady) == [True, True, True, False, True]


def test_steps_that_go_back_are_another_attempt(tmp_path):
    table = steady(tmp_path, steps(*[10] * 3) + steps(*[10] * 2))
    assert list(table.attempt) == [1, 1, 1, 2, 2]
    assert list(table.steady) == [False, False, False, True, True]
    assert pd.isna(steady(tmp_path, steps(*[10] * 3)).attempt).all()
