"""Scores by hand, as evaluate-v1.1.py gives them, and what must hold of all texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.inference.score import contains, exact_match, f1

words = st.text(alphabet="bcd 3.,'é", min_size=1).filter(lambda text: text.strip(" .,'"))


@pytest.mark.parametrize(
    ("text", "answers", "exact", "shared", "inside"),
    [
        ("France", ["France"], 1, 1, 1),
        ("the  FRANCE.", ["France"], 1, 1, 1),
        ("Normandy is in France.", ["France"], 0, 2 / 5, 1),  # precision 1/4, recall 1
        ("10th and 11th centuries", ["in the 10th and 11th centuries"], 0, 8 / 9, 0),  # 4/4 and 4/5
        ("in 911", ["Rollo", "911"], 0, 2 / 3, 1),  # the best answer counts: 1/2 and 1/1
        ("cat cat cat", ["the cat sat"], 0, 2 / 5, 0),  # one cat is common: 1/3 and 1/2
        ("Frances", ["France"], 0, 0, 0),
        ("an apple a day", ["apple day"], 1, 1, 1),
        ("$4,711", ["4711"], 1, 1, 1),
        ("A", ["A"], 1, 0, 0),  # as the script has it: what is only an article matches, and shares no word
        ("", ["France"], 0, 0, 0),
        ("", ["the"], 0, 0, 0),
        ("France", [], 0, 0, 0),
    ],
)
def test_by_hand(text, answers, exact, shared, inside):
    assert exact_match(text, answers) == exact
    assert f1(text, answers) == pytest.approx(shared)
    assert contains(text, answers) == inside


@given(words)
def test_an_answer_scores_full_marks_against_itself(text):
    assert exact_match(text, [text]) == f1(text, [text]) == contains(text, [text]) == 1.0


@given(st.text(), st.text())
def test_f1_knows_no_order(one, other):
    assert f1(one, [other]) == f1(other, [one])


@given(st.text(), st.lists(st.text()))
def test_scores_lie_in_order(text, answers):
    assert 0.0 <= f1(text, answers) <= 1.0
    assert exact_match("", answers) == f1("", answers) == contains("", answers) == 0.0
    if contains(text, answers):
        assert f1(text, answers) > 0.0


@given(words, st.lists(words))
def test_another_answer_never_lowers_a_score(text, answers):
    for score in (exact_match, f1, contains):
        assert score(text, [*answers, "bcd"]) >= score(text, answers)
