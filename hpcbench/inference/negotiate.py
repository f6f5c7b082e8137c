"""What an endpoint accepts: each optional field of a request is tried once, and left out where it is refused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpcbench.errors import SiteError
from hpcbench.inference.decode import Answer, decode
from hpcbench.inference.load import AGAIN
from hpcbench.inference.wire import Exchange, Wire, clock

# What an answer can do without, in the order in which they are given up where a refusal names none of them.
_OPTIONAL = ("stream_options", "seed", "temperature")
LIMITS = ("max_tokens", "max_completion_tokens")  # the names that an endpoint may have for it
_WHOLE = ("logprobs", "top_logprobs")  # fields without which an answer is another one: nothing stands in for them
_QUESTION = {"messages": [{"role": "user", "content": "Say yes."}]}
_FEW = 16  # tokens: enough to see that it answers
_TRIES = 8
_PAUSE = 5.0  # seconds between questions whether a model is loaded by now


class RefusedError(SiteError):
    """The endpoint answers, and not to what it was asked; `said` is its own words, `cold_start` as for `Accepted`."""

    def __init__(self, message: str, said: str, cold_start: float) -> None:
        self.said, self.cold_start = said, cold_start
        super().__init__(message)


@dataclass(frozen=True)
class Accepted:
    """The fields that every request carries, those that were refused and why, and how long the model took to load."""

    fields: Mapping[str, Any]
    dropped: Mapping[str, str]
    cold_start: float  # seconds from the first request to the first answer, where it said "later"; else 0
    answer: Answer


async def negotiate(
    wire: Wire,
    post: Callable[[Mapping[str, Any]], bytes],
    fields: Mapping[str, Any],
    most: int,
    *,
    cold_wait: float,
    say: Callable[[str], object],
    renew: Callable[[], Awaitable[bool]] | None = None,
    question: Mapping[str, Any] = _QUESTION,
) -> Accepted:
    """Ask a small question until the endpoint answers it; raises `SiteError` with its own words where it never does.

    That is a `RefusedError` where it may well answer something else.

    A refusal (400, 422) names the field that is not known; one that names `max_completion_tokens` wants `max_tokens`
    under that name. A model that is being loaded (503 and the like) is waited for. Last, `most` tokens are asked for,
    as some request will: an endpoint that gives fewer is no match for one that gives them, so that is an error.
    """
    kept = dict(fields)
    dropped: dict[str, str] = {}
    began, late, tries, pause = clock(), False, 0, 1.0
    while True:
        small = {key: min(_FEW, kept[key]) for key in LIMITS if key in kept}
        exchange = await wire.exchange(post({**kept, **small, **question}))
        answer = decode(exchange)
        waited = (clock() - began) / 1e9
        if 200 <= exchange.status < 300 and not exchange.failure:
            # reasoning may use up a small limit, and then there is no text: it answers all the same
            if answer.failure and not answer.failure.startswith("empty"):
                said = f"the endpoint answers, but not as one does: {answer.failure}"
                raise RefusedError(said, answer.failure, waited if late else 0.0)
            await _allowed(wire, post, kept, most, question)
            return Accepted(kept, dropped, waited if late else 0.0, answer)
        if exchange.status in AGAIN and exchange.status != 429 and waited < cold_wait:
            if not late:
                say(f"not ready yet: {answer.failure}; waiting up to {cold_wait:g} s")
            late = True
            await asyncio.sleep(min(pause, _PAUSE, max(0.0, cold_wait - waited)))
            pause *= 2
            continue
        tries += 1
        if tries < _TRIES and exchange.status in (400, 422):
            if "max_tokens" in kept and "max_completion_tokens" in answer.failure:
                kept["max_completion_tokens"] = kept.pop("max_tokens")
                dropped["max_tokens"] = "sent as max_completion_tokens"
                continue
            if field := _refused(exchange, answer.failure, kept):
                del kept[field]
                dropped[field] = answer.failure
                continue
        if tries < _TRIES and exchange.status == 429:
            await asyncio.sleep(min(pause, 30.0))
            pause *= 2
            continue
        if exchange.status == 401 and renew is not None and tries < 2 and await renew():
            continue
        if not exchange.status or exchange.failure:
            raise SiteError(f"the endpoint does not answer: {answer.failure}")
        said = f"the endpoint refuses: {answer.failure}{_mend(exchange)}"
        if exchange.status == 401 or exchange.status in AGAIN:
            raise SiteError(said)
        raise RefusedError(said, answer.failure, waited if late else 0.0)


async def _allowed(
    wire: Wire,
    post: Callable[[Mapping[str, Any]], bytes],
    kept: Mapping[str, Any],
    most: int,
    question: Mapping[str, Any],
) -> None:
    """Ask for `most` tokens; the answer itself is not waited for. Raises `SiteError` where that is refused."""
    name = next(key for key in LIMITS if key in kept)
    if most <= _FEW:
        return
    exchange = await wire.exchange(post({**kept, name: most, **question}), head_alone=True)
    if exchange.status in (400, 422):
        said = decode(exchange).failure
        raise SiteError(f"the endpoint does not give {most} tokens: {said}; --max-tokens says how many it is asked for")


def _refused(exchange: Exchange, said: str, kept: Mapping[str, Any]) -> str:
    """Return the optional field that a refusal names; where it names none, the next that can be done without."""
    body = b"".join(exchange.pieces)
    try:
        detail = json.loads(body).get("detail")
    except (ValueError, AttributeError, RecursionError):
        detail = None
    named: set[str] = set()
    for each in detail if isinstance(detail, list) else ():
        if isinstance(each, dict) and isinstance(each.get("loc"), list):
            named |= {str(word) for word in each["loc"]}
    if any(field in kept and (field in named or re.search(rf"\b{field}\b", said)) for field in _WHOLE):
        return ""
    optional = [field for field in _OPTIONAL if field in kept]
    for field in optional:
        if field in named or re.search(rf"\b{field}\b", said):
            return field
    return optional[0] if optional else ""


def _mend(exchange: Exchange) -> str:
    return {
        401: "; get a new token",
        403: "; the account may not use this model",
        404: "; is the model's name right? hpcbench check lists them",
        429: "; the quota is used up",
    }.get(exchange.status, "")
