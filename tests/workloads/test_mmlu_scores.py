"""What answers add up to."""

import pytest

from hpcbench.workloads.mmlu.scores import scores, wilson


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [  # Newcombe 1998, table I, method 3: the score interval without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_is_the_published_one(correct, count, low, high):
    assert wilson(correct, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_of_nothing_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)
    assert list(scores([])) == []


def test_subjects_then_all_questions_alike_then_all_subjects_alike():
    marks = {"art": [1, 1, 0, 0], "law": [1]}
    rows = list(scores([{"subject": name, "correct": mark} for name, each in marks.items() for mark in each]))
    told = [(row["subject"], row["metric"], row["value"], row["count"], row.get("correct")) for row in rows]
    assert told == [
        ("art", "acc", 0.5, 4, 2),
        ("law", "acc", 1.0, 1, 1),
        ("", "acc", 0.6, 5, 3),
        ("", "acc_macro", 0.75, 2, None),
    ]
    assert (rows[0]["low"], rows[0]["high"]) == wilson(2, 4)
