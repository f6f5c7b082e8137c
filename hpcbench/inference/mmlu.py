"""MMLU at an endpoint: its questions as prompts, the protocol that they are asked by, and what they come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpcbench.errors import SiteError, UsageError
from hpcbench.inference.asker import asks
from hpcbench.inference.choice import LIKELIEST, WRITTEN, letters, protocol
from hpcbench.inference.negotiate import LIMITS, Accepted, RefusedError
from hpcbench.inference.prompts import Prompt, varied
from hpcbench.site import Endpoint
from hpcbench.workloads.mmlu import scores
from hpcbench.workloads.mmlu.prompts import put
from hpcbench.workloads.mmlu.questions import DataError, Question, read

_COUNTS = (20, 5)  # log-probabilities asked for: the most that vLLM and OpenAI's chat give, and OpenAI's completions
_NONE_TOLD = "the answer tells of no likely tokens"
_NO_LETTER = "no letter is among the likeliest first tokens"


def prompts(parameters: Mapping[str, Any]) -> list[Prompt]:
    """Make the prompts of the warm-up, whose questions are made up, and of all questions, subject by subject.

    `parameters` are those of the benchmark ``mmlu_endpoint``. Raises `UsageError`.
    """
    style = parameters["style"]
    try:
        subjects = read(
            str(parameters["data"]), str(parameters["subjects"]),
            shots=parameters["shots"], limit=parameters["limit"], seed=parameters["seed"],
        )  # fmt: skip
    except DataError as error:
        raise UsageError(str(error)) from None
    first = subjects[0]
    warmup = [put(style, _made_up(first.name, number), first.shots) for number in range(parameters["warmup"])]
    asked = [put(style, question, subject.shots) for subject in subjects for question in subject.asked]
    return varied(
        [
            Prompt(each.messages or (("user", each.text),), question=each.question.id, put=each)
            for each in [*warmup, *asked[: parameters["requests"] or None]]
        ],
        parameters,
    )


def _made_up(subject: str, number: int) -> Question:
    return Question(subject, number, f"What is {number} + 1?", (f"{number}", f"{number + 1}", "-1", "-2"), 1)


async def agree(
    ask: Callable[..., Awaitable[Accepted]],
    fields: Mapping[str, Any],
    most: int,
    prompt: Prompt,
    wanted: str,
    where: Endpoint,
) -> Accepted:
    """Find the best protocol that the endpoint offers, or see that it offers the one that is wanted.

    `ask` is `negotiate` but for fields, tokens and question. What an answer tells counts, not that the request was
    accepted: servers ignore fields. Raises `SiteError`.
    """
    refusals: dict[str, str] = {}
    cold = 0.0
    for more in _ways(wanted, prompt, where):
        tried = {**fields, **more}
        question = {name: value for name, value in asks(tried, LIMITS[0], prompt).items() if name not in tried}
        name = protocol(tried)
        if refusals.get(name) in (_NONE_TOLD, _NO_LETTER):
            continue  # fewer would tell no more
        try:
            accepted = await ask(tried, most if name == WRITTEN else 1, question=question)
        except RefusedError as error:
            if name == WRITTEN:
                raise
            refusals[name], cold = error.said, max(cold, error.cold_start)
            continue
        cold = max(cold, accepted.cold_start)
        if name != WRITTEN and (why := _lacks(accepted, wanted)):
            refusals[name] = why
            continue
        told = {f"logprobs ({each})": why for each, why in refusals.items() if each != name}
        return replace(accepted, cold_start=cold, dropped={**told, **accepted.dropped})
    why = "; ".join(refusals.values()) or "its own API completes no text, the one below /v1 does (api: openai)"
    raise SiteError(f"the endpoint does not offer --protocol {wanted}: {why}; auto takes the best that there is")


def _ways(wanted: str, prompt: Prompt, where: Endpoint) -> Iterator[dict[str, Any]]:
    """Yield what is asked for beside the rest by one protocol after another, the best first."""
    assert prompt.put is not None
    if wanted in ("auto", "completions") and prompt.put.text and where.api == "openai":
        for count in _COUNTS:
            yield {"max_tokens": 1, "logprobs": count}
    if wanted in ("auto", "top_logprobs"):
        for count in _COUNTS:
            yield {"max_tokens": 1, "logprobs": True, "top_logprobs": count}
    if wanted in ("auto", "letter"):
        yield {}


def _lacks(accepted: Accepted, wanted: str) -> str:
    """Say why answers cannot be scored by what they tell: one that begins with reasoning tells of no letter."""
    likely = accepted.answer.likely
    if len(likely) < 2:  # the token that was sampled tells nothing of the others
        return _NONE_TOLD
    return _NO_LETTER if wanted == "auto" and not letters(likely, LIKELIEST) else ""


def records(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of what the answers of whole requests come to: scores, and how many could not be read."""
    asked = [row for row in rows if "correct" in row]
    for row in scores.scores(asked):
        yield "eval", row
    if asked:
        yield "counter", {"name": "unparsed", "value": sum(row["choice"] == "" for row in asked), "unit": ""}


def notes(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tell by which protocol questions were asked, and how many answers could not be read."""
    asked = [row for row in rows if "correct" in row]
    used = Counter(str(row["protocol"]) for row in asked)
    if len(used) > 1:
        counts = ", ".join(f"{count} by {name}" for name, count in used.most_common())
        yield f"questions were asked by different protocols, whose scores do not compare: {counts}"
    elif used:
        yield f"protocol: {next(iter(used))}"
    if unread := sum(row["choice"] == "" for row in asked):
        yield f"{unread} of {len(asked)} answers were no letter and count as wrong"
