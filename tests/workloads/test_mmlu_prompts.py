"""How questions of MMLU are put, and what counts as an answer."""

import pytest

from hpcbench.workloads.mmlu.prompts import letter, put
from hpcbench.workloads.mmlu.questions import Question

ASKED = Question("high_school_art", 3, "  Who painted it? ", ("Anna", "Bea", "Carl", "D. Duck"), 1)
SHOT = Question("high_school_art", 0, "Where is it?", ("here", "there", "nowhere", "everywhere"), 2)


def test_harness_is_the_prompt_of_lm_evaluation_harness():
    prompt = put("harness", ASKED, [SHOT])
    assert prompt.text == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "Where is it?\nA. here\nB. there\nC. nowhere\nD. everywhere\nAnswer: C\n\n"
        "Who painted it?\nA. Anna\nB. Bea\nC. Carl\nD. D. Duck\nAnswer:"
    )
    assert (prompt.delimiter, prompt.shots, prompt.messages) == (" ", 1, ())


def test_original_is_the_prompt_of_the_paper_with_its_two_spaces():
    text = put("original", ASKED, []).text
    assert text == (
        "The following are multiple choice questions (with answers) about  high school art.\n\n"
        "  Who painted it? \nA. Anna\nB. Bea\nC. Carl\nD. D. Duck\nAnswer:"
    )


def test_chat_makes_a_turn_of_every_shot():
    prompt = put("chat", ASKED, [SHOT])
    assert [role for role, _ in prompt.messages] == ["user", "assistant", "user"]
    assert prompt.messages[0][1].endswith("Where is it?\nA. here\nB. there\nC. nowhere\nD. everywhere")
    assert prompt.messages[1][1] == "C"
    assert prompt.messages[2][1] == "Who painted it?\nA. Anna\nB. Bea\nC. Carl\nD. D. Duck"
    assert (prompt.text, prompt.delimiter) == ("", "")


def test_every_way_to_put_it_has_an_identity_of_its_own():
    prompts = [put(style, ASKED, shots) for style in ("harness", "original", "chat") for shots in ([], [SHOT])]
    assert len({prompt.id for prompt in prompts}) == 6
    assert {prompt.question.id for prompt in prompts} == {ASKED.id}
    assert put("chat", ASKED, [SHOT]).id == prompts[-1].id


@pytest.mark.parametrize(
    "said",
    [
        "B",
        " B\n",
        "(B)",
        "B.",
        "B)",
        "**B**",
        "Answer: B",
        "The answer is B.",
        "The correct answer is (B).",
        "B. Bea",
        "B) bea.",
        "**B. Bea**",
    ],
)
def test_a_letter_is_read(said):
    assert letter(said, ASKED) == "B"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "b",
        "E",
        "B C",
        "A or B",
        "B. Anna",
        "Bea",
        "A painter, perhaps.",
        "I think it is B",
        "AB",
        "B because",
        "The answer is a painter.",
    ],
)
def test_all_else_is_none(said):
    assert letter(said, ASKED) == ""


def test_a_choice_may_look_like_a_letter_itself():
    assert letter("D. D. Duck", ASKED) == "D"
    assert letter("A. D. Duck", ASKED) == ""
