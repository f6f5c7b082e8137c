"""What a model chose of the answers to a question: the letter that it finds likeliest, or the one that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpcbench.inference.decode import Answer
from hpcbench.workloads.mmlu.prompts import letter
from hpcbench.workloads.mmlu.questions import LETTERS, Question

COMPLETIONS = "log-likelihood of completions"
LIKELIEST = "first-token log-likelihood"
WRITTEN = "generated letter"
_SPACES = " \n\t\u2581\u0120"  # those of SentencePiece and of byte-level vocabularies, too


@dataclass(frozen=True)
class Asked:
    """A question, how many answered ones stood before it, and the protocol that it was asked by."""

    question: Question
    shots: int
    protocol: str


def protocol(fields: Mapping[str, Any]) -> str:
    """Tell by the fields of a request which protocol it follows.

    ``logprobs`` is true or false for a chat, and a number in OpenAI's legacy completions.
    """
    wanted = fields.get("logprobs")
    return WRITTEN if wanted is None else LIKELIEST if wanted is True else COMPLETIONS


def chosen(asked: Asked, answer: Answer) -> dict[str, Any]:
    """Write what a record holds of an answer; an empty choice is wrong.

    score_a to score_d: log-likelihood in nats of the likeliest token that is the letter; left out where none is among
    those that the endpoint tells.
    """
    question = asked.question
    told = {} if asked.protocol == WRITTEN else letters(answer.likely, asked.protocol)
    choice = (
        letter(answer.text, question)
        if asked.protocol == WRITTEN
        else max(told, key=lambda each: told[each], default="")
    )
    right = LETTERS[question.answer]
    return {
        "task": "mmlu", "subject": question.subject, "number": question.number, "choice": choice, "answer": right,
        "correct": int(choice == right), **{f"score_{each.lower()}": value for each, value in told.items()},
        "shots": asked.shots, "protocol": asked.protocol,
    }  # fmt: skip


def letters(likely: Mapping[str, float], protocol: str) -> dict[str, float]:
    """Return letter → log-likelihood of the letters that are among the likeliest tokens, A before D.

    Behind a text only a letter after a space is an answer, as in lm-evaluation-harness; where an endpoint tells of none
    with its space, it does not write spaces, and the bare ones count.
    """
    found: dict[str, float] = {}
    for token, value in likely.items():
        if (each := token.strip(_SPACES)) in set(LETTERS):
            found[each] = max(value, found.get(each, value))
    spaced = {token: value for token, value in likely.items() if token[:1] in _SPACES and token.strip(_SPACES) in found}
    if protocol == COMPLETIONS and spaced:
        return letters(spaced, LIKELIEST)
    return {each: found[each] for each in LETTERS if each in found}
