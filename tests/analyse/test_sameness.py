import math

import answered
import pytest
import written

from hpcbench.analyse.sameness import TOLERANCE
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse
from hpcbench.report import section


def validation(losses, sample=None):
    rows = [
        {"record": "eval", "task": "validation", "metric": "loss", "value": value, "step": step}
        for step, value in losses.items()
    ]
    return written.records(*rows, *([{"record": "event", "kind": "sample", "message": sample}] if sample else []))


def same(folder, *cases, invariant=("threads",), title="r"):
    """Write a run of one case for each (parameters, log) and return its sameness checks."""
    for index, (parameters, log) in enumerate(cases):
        written.case(folder / title / str(index), log, parameters=parameters, invariant=list(invariant))
    metrics = parse(written.run(folder / title))
    [comparison] = compare(metrics)
    return section(metrics, comparison).sameness


LOSSES = {0: 5.325522, 10: 4.416494, 20: 4.329332}


def test_equal_losses_are_the_same_to_the_last_digit(tmp_path):
    [found] = same(tmp_path, *(({"threads": n}, validation(LOSSES, "text")) for n in (1, 2, 4)))
    assert (found.same, found.difference, found.cases, found.samples) == (True, 0, 3, 1)
    assert found.losses == {step: (loss,) * 3 for step, loss in LOSSES.items()}
    assert found.across == ("threads",)


@pytest.mark.parametrize(("factor", "expected"), [(1 + TOLERANCE / 2, True), (1 + TOLERANCE * 2, False), (2, False)])
def test_losses_may_differ_by_rounding_and_no_more(tmp_path, factor, expected):
    other = {**LOSSES, 10: LOSSES[10] * factor}
    [found] = same(tmp_path, ({"threads": 1}, validation(LOSSES)), ({"threads": 2}, validation(other)))
    assert found.same is expected
    assert found.difference == pytest.approx(1 - 1 / factor)


def test_another_sample_is_not_the_same(tmp_path):
    [found] = same(tmp_path, ({"threads": 1}, validation(LOSSES, "a")), ({"threads": 2}, validation(LOSSES, "b")))
    assert (found.same, found.difference, found.samples) == (False, 0, 2)


def test_a_loss_that_is_no_number_differs_from_every_number(tmp_path):
    broken = {**LOSSES, 20: math.nan}
    [found] = same(tmp_path, ({"threads": 1}, validation(LOSSES)), ({"threads": 2}, validation(broken)))
    assert (found.same, found.difference) == (False, math.inf)


@pytest.mark.parametrize(("one", "two"), [
    ({0: 5.0}, {10: 4.0}),  # at no step did both validate
    ({0: math.nan, 10: math.nan}, {0: math.nan, 10: math.nan}),  # both diverged: that proves nothing
])  # fmt: skip
def test_what_cannot_be_compared_is_not_called_the_same(tmp_path, one, two):
    [found] = same(tmp_path, ({"threads": 1}, validation(one)), ({"threads": 2}, validation(two)))
    assert found.same is False
    assert math.isnan(found.difference)


def test_a_shorter_run_is_compared_as_far_as_it_goes(tmp_path):
    [found] = same(tmp_path, ({"threads": 1}, validation({0: 5.325522})), ({"threads": 2}, validation(LOSSES)))
    assert (found.same, found.cases) == (True, 2)
    assert found.losses[10] == pytest.approx((math.nan, 4.416494), nan_ok=True)


def test_only_cases_that_should_be_the_same_are_compared(tmp_path):
    cases = [
        ({"threads": threads, "batch": batch}, validation({0: 5.0 + batch})) for threads in (1, 2) for batch in (4, 8)
    ]
    found = same(tmp_path, *cases)
    assert [(each.point, each.across, each.same) for each in found] == [
        ({"batch": 4}, ("threads",), True),
        ({"batch": 8}, ("threads",), True),
    ]


def test_repeats_of_one_point_are_compared_too(tmp_path):
    cases = [({"threads": 1}, validation({0: 5.0})), ({"threads": 1}, validation({0: 6.0}))]
    [found] = same(tmp_path, *cases)
    assert (found.same, found.cases) == (False, 2)


def test_logs_that_do_not_say_are_compared_over_every_axis(tmp_path):
    for threads in (1, 2):
        (tmp_path / f"threads{threads}.log").write_text(written.llmc([9, 1, 1], validation={0: 5.0, 2: 4.0}))
    metrics = parse(tmp_path)
    [found] = section(metrics, compare(metrics)[0]).sameness
    assert (found.same, found.across, found.losses) == (True, ("threads",), {0: (5.0, 5.0), 2: (4.0, 4.0)})


def test_without_a_validation_loss_there_is_nothing_to_check(tmp_path):
    assert same(tmp_path, ({"threads": 1}, ""), ({"threads": 2}, "")) == []


def agreement(folder, *cases):
    """Write a case of each list of answers, in modes that must not change them, and return how far they agree."""
    for number, rows in enumerate(cases):
        answered.case(folder / "r" / str(number), 9.0, answers=rows, parameters={"mode": f"mode {number}"}, baseline={})
    metrics = parse(written.run(folder / "r"))
    return section(metrics, compare(metrics)[0]).sameness


def scored(count, *, off=0.0):
    columns = {f"score_{letter}": -1.0 - place for place, letter in enumerate("abcd")}
    return [{**row, **columns, "score_a": -1.0 + off} for row in answered.answers("ethics", count, 3)]


def test_answers_are_compared_where_there_are_no_losses(tmp_path):
    [found] = agreement(tmp_path, scored(9), scored(9, off=1e-4)[::-1], scored(7))
    assert (found.same, found.cases, found.losses) == (True, 3, {})
    assert (found.answers.questions, found.answers.different) == (9, 0)
    assert found.answers.scores == pytest.approx(1e-4)


def test_an_answer_that_differs_in_one_case_is_counted_once(tmp_path):
    other = scored(9)
    other[4] |= {"choice": "", "correct": 0}
    other[5] |= {"choice": "D", "correct": 0}
    [found] = agreement(tmp_path, scored(9), scored(9), other)
    assert (found.same, found.answers.questions, found.answers.different) == (False, 9, 2)


def test_answers_without_scores_are_compared_by_what_was_chosen(tmp_path):
    [found] = agreement(tmp_path, *[answered.answers("ethics", 4, 2)] * 2)
    assert (found.same, found.answers.different) == (True, 0)
    assert math.isnan(found.answers.scores)


def test_other_questions_prove_nothing(tmp_path):
    [found] = agreement(tmp_path, answered.answers("ethics", 4, 2), answered.answers("virology", 4, 2))
    assert (found.same, found.answers.questions) == (False, 0)


def test_a_single_case_with_answers_is_compared_with_nothing(tmp_path):
    assert agreement(tmp_path, answered.answers("ethics", 4, 2)) == []
