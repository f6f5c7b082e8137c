"""Scores of the answers of each point, and two points held against each other question by question."""

import json
import math
from math import comb

import answered
import pytest
import written

from hpcbench.analyse.answers import pairs, scores
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse


def gathered(folder):
    metrics = parse(written.run(folder, benchmark="mmlu"))
    [comparison] = compare(metrics)
    return scores(metrics, comparison), pairs(metrics, comparison)


def mode(folder, name, answers, repeat=1, **description):
    answered.case(
        folder / f"{name}-{repeat}", 10.0, answers=answers, repeat=repeat, parameters={"mode": name}, **description
    )


def test_a_score_is_by_subject_and_over_all_questions_and_over_all_subjects(tmp_path):
    answers = answered.answers("astronomy", 152, 60, duration=0.5) + answered.answers("virology", 48, 12, duration=1.0)
    mode(tmp_path / "r", "sequential", answers)
    [[each], _] = gathered(tmp_path / "r")
    found = [(score.subject, score.count, score.corrects, score.duration) for score in each.subjects]
    assert found == [("astronomy", 152, (60,), 76), ("virology", 48, (12,), 48)]
    assert (each.total.count, each.total.corrects, each.total.accuracy) == (200, (72,), 0.36)
    assert each.macro == pytest.approx((60 / 152 + 12 / 48) / 2)
    assert each.protocols == ("log-likelihood",)


def test_the_interval_is_wilsons(tmp_path):
    """53 of 152, as R has it: prop.test(53, 152, correct = FALSE)."""
    mode(tmp_path / "r", "sequential", answered.answers("astronomy", 152, 53))
    [[each], _] = gathered(tmp_path / "r")
    assert each.total.interval == pytest.approx((0.2776, 0.4272), abs=2e-3)


def test_repeats_are_no_more_questions(tmp_path):
    for repeat, right in enumerate((46, 48), 1):
        mode(tmp_path / "r", "sequential", answered.answers("ethics", 100, right), repeat)
    [[each], _] = gathered(tmp_path / "r")
    assert (each.total.count, each.total.accuracy, each.total.corrects) == (100, 0.47, (46, 48))
    low, high = each.total.interval
    assert (low, high) == (pytest.approx(0.3656, abs=1e-4), pytest.approx(0.5768, abs=1e-4))  # of 46, and of 48


def test_answers_that_have_no_name_are_all_answers(tmp_path):
    answers = [{"record": "answer", "subject": "art", "choice": "A", "correct": number % 2} for number in range(100)]
    mode(tmp_path / "r", "sequential", [{**row, "answer": "A"} for row in answers])
    [[each], found] = gathered(tmp_path / "r")
    assert (each.total.count, each.total.corrects) == (100, (50,))
    assert found == []


def test_the_time_of_a_case_that_was_resumed_is_in_no_ratio(tmp_path):
    answers = answered.answers("art", 200, 60)
    answered.case(tmp_path / "r" / "1", 100.0, answers=answers, parameters={"mode": "sequential"})
    before = answered.counters(answers_before=198, questions_per_second=9.0)
    answered.case(tmp_path / "r" / "2", 5.0, before, answers=answers, parameters={"mode": "batched"})
    [comparison] = compare(parse(written.run(tmp_path / "r", benchmark="mmlu")))
    [resumed] = [row for row in comparison.rows if row.point["mode"] == "batched"]
    assert resumed.ratio is None or math.isnan(resumed.ratio.speedup)
    assert resumed.metrics["wall_time"].values == ()
    assert resumed.metrics["questions_per_second"].values == (9.0,)


def test_an_answer_that_could_not_be_read_is_wrong_and_counted(tmp_path):
    answers = [*answered.answers("ethics", 8, 4), answered.answer("ethics", 8, ""), answered.answer("ethics", 9, "")]
    mode(tmp_path / "r", "sequential", answers)
    [[each], _] = gathered(tmp_path / "r")
    assert (each.total.count, each.total.corrects, each.total.unparsed) == (10, (4,), 2)


def test_of_a_question_that_was_answered_again_after_a_kill_the_last_answer_counts(tmp_path):
    mode(tmp_path / "r", "sequential", [*answered.answers("ethics", 4, 0), *answered.answers("ethics", 4, 4)])
    [[each], _] = gathered(tmp_path / "r")
    assert (each.total.count, each.total.corrects) == (4, (4,))


def test_a_case_that_did_not_complete_has_no_score(tmp_path):
    mode(tmp_path / "r", "sequential", answered.answers("ethics", 4, 4))
    folder = answered.case(
        tmp_path / "r" / "batched", 9.0, answers=answered.answers("ethics", 2, 0), parameters={"mode": "batched"}
    )
    (folder / "exit.json").write_text(json.dumps(written.FAILED))
    found, beside = gathered(tmp_path / "r")
    assert [each.row.point["mode"] for each in found] == ["sequential"]
    assert beside == []


def test_scores_of_other_tools_are_shown_with_an_interval_where_questions_are_counted(tmp_path):
    results = {"mmlu_astronomy": {"acc,none": 0.25, "acc_stderr,none": 0.03}, "mmlu_virology": {"acc,none": 0.5}}
    report = {
        "results": results, "versions": dict.fromkeys(results, 1), "n-shot": dict.fromkeys(results, 5),
        "n-samples": {"mmlu_astronomy": {"original": 152, "effective": 152}}, "config": {"model": "hf"},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(report))
    metrics = parse(tmp_path / "results.json")
    [each] = scores(metrics, compare(metrics)[0])
    astronomy, virology = each.subjects
    assert (astronomy.count, astronomy.corrects, astronomy.interval) == (
        152,
        (38,),
        pytest.approx((0.19, 0.32), abs=9e-3),
    )
    assert virology.accuracy == 0.5
    assert math.isnan(virology.interval[0])
    assert math.isnan(each.total.accuracy)  # nobody knows how many questions the other subject has
    assert each.macro == 0.375


# Two points side by side.


def test_two_points_are_compared_over_the_questions_that_both_answered(tmp_path):
    """Of ten questions the first has 0 to 5 right, the second 4 to 9, and one of them answered five more."""
    mode(tmp_path / "r", "sequential", answered.answers("ethics", 10, 6))
    other = [answered.answer("ethics", n, "ABCD"[(n + (n < 4)) % 4]) for n in range(15)]
    mode(tmp_path / "r", "batched", other[::-1])  # in whatever order they were answered
    _, [pair] = gathered(tmp_path / "r")
    assert (pair.base.point["mode"], pair.row.point["mode"]) == ("sequential", "batched")
    assert (pair.count, pair.both, pair.only_base, pair.only_row, pair.neither) == (10, 2, 4, 4, 0)
    assert pair.p == 1
    assert [flip.number for flip in pair.flips] == [0, 1, 2, 3, 6, 7, 8, 9]
    first = pair.flips[0]
    assert (first.subject, first.before, first.after, first.answer) == ("ethics", "A", "B", "A")


@pytest.mark.parametrize(("only_base", "only_row"), [(1, 8), (8, 1), (0, 5), (3, 3), (0, 0)])
def test_mcnemars_test_is_binomial_over_what_one_alone_had_right(tmp_path, only_base, only_row):
    marks = [("A", "B")] * only_base + [("B", "A")] * only_row + [("A", "A")] * 7 + [("C", "D")] * 2
    for index, name in enumerate(("sequential", "batched")):
        choices = [answered.answer("ethics", 4 * n, mark[index]) for n, mark in enumerate(marks)]
        mode(tmp_path / "r", name, choices)
    _, [pair] = gathered(tmp_path / "r")
    assert (pair.both, pair.only_base, pair.only_row, pair.neither) == (7, only_base, only_row, 2)
    discordant, fewer = only_base + only_row, min(only_base, only_row)
    tail = sum(comb(discordant, k) for k in range(fewer + 1)) / 2**discordant
    assert pair.p == pytest.approx(min(1, 2 * tail))
    assert len(pair.flips) == only_base + only_row + 2  # wrong in another way is another answer, too


def test_questions_that_are_the_same_in_every_word_are_paired_in_order(tmp_path):
    for name, choices in (("sequential", "AB"), ("batched", "AC")):
        rows = [
            answered.answer("ethics", n, choice, question="the same") for n, choice in zip((0, 4), choices, strict=True)
        ]
        mode(tmp_path / "r", name, rows)
    _, [pair] = gathered(tmp_path / "r")
    assert (pair.count, [flip.number for flip in pair.flips]) == (2, [4])


def test_the_first_repeat_of_each_point_is_paired(tmp_path):
    for repeat, right in enumerate((5, 9), 1):
        mode(tmp_path / "r", "sequential", answered.answers("ethics", 10, right), repeat)
        mode(tmp_path / "r", "batched", answered.answers("ethics", 10, right), repeat)
    _, [pair] = gathered(tmp_path / "r")
    assert (pair.count, pair.both, pair.neither) == (10, 5, 5)


def test_points_without_a_baseline_are_held_against_the_first(tmp_path):
    for site in ("metis", "sophia"):
        mode(
            tmp_path / "r", "batched", answered.answers("ethics", 4, 2), 1 + (site == "sophia"), site=site, baseline={}
        )
    _, found = gathered(tmp_path / "r")
    assert [(pair.base.point["site"], pair.row.point["site"]) for pair in found] == [("metis", "sophia")]


# What comes in is not trusted.


@pytest.mark.parametrize("columns", [
    {"choice": "A|B`\n# C"}, {"number": "twelve"}, {"correct": "yes"}, {"correct": 17}, {"correct": None},
    {"duration": "long"}, {"subject": None}, {"question": None}, {"question": 5}, {"cut": -1}, {"shots": [1]},
    {"prompt": None, "protocol": None, "answer": 3},
])  # fmt: skip
def test_a_strange_answer_harms_nothing(tmp_path, columns):
    for name in ("sequential", "batched"):
        answers = answered.answers("ethics", 4, 2)
        mode(tmp_path / "r", name, [])
        (tmp_path / "r" / f"{name}-1" / "answers.jsonl").write_text(
            written.records(*answers[:3], {**answers[3], **columns})
        )
    found, [pair] = gathered(tmp_path / "r")
    assert [each.total.count for each in found] == [4, 4]
    assert pair.count in (3, 4)


def test_requests_that_failed_or_warmed_up_are_no_answers(tmp_path):
    rows = answered.requests("ethics", 4, 4, 2.0)
    rows[0]["phase"], rows[1]["error"] = "warm-up", "status 500"
    asked_nothing = {"record": "request", "phase": "measured", "error": "", "latency": 0.1}
    answered.case(tmp_path / "r" / "a", 9.0, [asked_nothing], requests=rows, parameters={"mode": "sequential"})
    [[each], _] = gathered(tmp_path / "r")
    assert (each.total.count, each.total.duration) == (2, 1.0)
    assert each.protocols == ("generated letter",)
