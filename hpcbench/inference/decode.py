"""What an answer says: text, tokens and the times of its chunks, out of the bytes as they came.

Done after the measurement or in another process, never while answers are being taken in.
"""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcbench.inference.wire import Exchange  # whose packages who only wants `blanked` may not have

_FARTHEST = 1e6  # nats from 0: what is farther is no logarithm of a probability
_TEXT = 400  # characters of an error that are kept
EMPTY = "empty: the answer holds no text"
_SECRET = 8  # characters: what is shorter is no secret but a word that local servers are given, such as EMPTY
# What servers call their own times: SambaNova in seconds (usage), llama.cpp in milliseconds (timings), Ollama in
# nanoseconds (https://docs.ollama.com/api/usage), whose total holds the loading of the model as well.
_SAMBANOVA = {"time_to_first_token": "server_ttft", "total_latency": "server_latency"}
_LLAMA_CPP = {"prompt_ms": "server_prefill_time", "predicted_ms": "server_decode_time"}
_OLLAMA = {
    "total_duration": "server_latency", "load_duration": "server_load_time",
    "prompt_eval_duration": "server_prefill_time", "eval_duration": "server_decode_time",
}  # fmt: skip
_OLLAMA_COUNTS = {"prompt_tokens": "prompt_eval_count", "completion_tokens": "eval_count"}


@dataclass
class Answer:
    """One answer, decoded. Times are nanoseconds of the monotonic clock, None where there was no such thing.

    A chunk is what brought content, reasoning, a tool call or log-likelihoods: neither the role alone nor the usage is
    one. `failure` is empty for an answer that is whole; what had arrived of a broken one is there all the same.
    """

    text: str = ""
    reasoning: str = ""
    chunks: list[int] = field(default_factory=list)  # when each chunk arrived
    likely: Mapping[str, float] = field(default_factory=dict)  # likeliest first tokens: log-likelihoods in nats
    first_content: int | None = None  # the first chunk that is not reasoning
    usage: Mapping[str, Any] = field(default_factory=dict)
    server: Mapping[str, float] = field(default_factory=dict)  # its own times in seconds, as a record names them
    finish_reason: str = ""
    model: str = ""
    streamed: bool = False
    failure: str = ""


@dataclass
class _Taken(Answer):
    """An answer while it is read: what each chunk brought, to be joined once."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)


def decode(exchange: Exchange) -> Answer:
    """Read an answer in any of the forms that servers send; nothing is raised.

    What the request was sent with and nobody may see is blanked out of what the server says; a secret of fewer than 8
    characters stays in text and reasoning, where it is a word like any other.
    """
    answer = _Taken(failure=exchange.failure)
    _read(answer, exchange)
    secrets = exchange.secrets
    long = [secret for secret in secrets if len(secret) >= _SECRET]
    return Answer(
        text=blanked(_paired("".join(answer.texts)), long),
        reasoning=blanked(_paired("".join(answer.thoughts)), long),
        chunks=answer.chunks,
        likely=answer.likely,
        first_content=answer.first_content,
        usage=answer.usage,
        server=answer.server,
        finish_reason=_shown(blanked(answer.finish_reason, secrets)),
        model=_shown(blanked(answer.model, secrets)),
        streamed=answer.streamed,
        failure=_shown(blanked(answer.failure, secrets)),
    )


def blanked(said: str, secrets: Iterable[str]) -> str:
    r"""Write ``(secret)`` for each secret in a text, however JSON and addresses have written its characters.

    Each may be itself, ``%2f``, ``\u002f`` or ``\/``, or what such a form becomes when it is written so once more.
    Upper and lower case are the same; in a secret of fewer than 8 characters, which may be a word of ours, only in
    such forms.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        said = _pattern(secret).sub("(secret)", said)
    return said


@functools.lru_cache
def _pattern(secret: str) -> re.Pattern[str]:
    return re.compile("".join(map(_spellings, secret)), re.IGNORECASE if len(secret) >= _SECRET else 0)


def _spellings(letter: str) -> str:
    r"""Return a pattern of the forms of a character; written twice, ``\`` has become up to three and ``%`` is ``%25``.

    No repeat is without a bound, or a body of nothing but ``\`` would take for ever.
    """
    units = letter.encode("utf-16-be", "surrogatepass")
    long = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
    short = json.dumps(letter)[1:-1].replace("/", r"\/")
    escaped = "|".join(re.escape(form).replace(r"\\", r"\\{1,3}") for form in (long, short) if form != letter)
    encoded = "".join(f"%(?:25)?{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))
    return f"(?:(?i:{encoded}|{escaped})|{re.escape(letter)})"


def events(pieces: list[tuple[int, bytes]]) -> Iterator[tuple[int, str, bytes]]:
    r"""Split a body into server-sent events: when the last byte of its data was there, its name, its data.

    Lines end with ``\n``, ``\r\n`` or ``\r``, an event with an empty line or the end of the body
    (https://html.spec.whatwg.org/multipage/server-sent-events.html).
    """
    name, when = "", 0
    data: list[bytes] = []
    for time, line in _lines(pieces):
        if not line:
            if data:
                yield when, name, b"\n".join(data)
            name, data = "", []
            continue
        key, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if key == b"data":
            data.append(value)
            when = time
        elif key == b"event":
            name = value.decode("utf-8", "replace")
    if data:
        yield when, name, b"\n".join(data)


def _lines(pieces: list[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Return each line and when its end arrived."""
    rest: list[bytes] = []
    after_return, last = False, 0
    for time, piece in pieces:
        last = time
        plain = piece[1:] if after_return and piece.startswith(b"\n") else piece
        after_return = piece.endswith(b"\r")
        first, *others = plain.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        rest.append(first)
        for other in others:
            yield time, b"".join(rest)
            rest = [other]
    if any(rest):
        yield last, b"".join(rest)


def _read(answer: _Taken, exchange: Exchange) -> None:
    refused = exchange.status and not 200 <= exchange.status < 300
    try:
        pieces = list(_unpacked(exchange))
    except (zlib.error, OverflowError):
        said = "body: it is said to be compressed, and is not, or is too long"
        answer.failure = answer.failure or (f"status {exchange.status}" if refused else said)
        return
    if refused:
        answer.failure = _refusal(exchange, b"".join(piece for _, piece in pieces))
        return
    kind, start = exchange.header(b"content-type").lower(), _start(pieces)
    if start.startswith((b"data:", b"event:", b":")) or (b"event-stream" in kind and not start.startswith(b"{")):
        answer.streamed = True
        _take_stream(answer, pieces)
    elif start.startswith(b"{") and b"ndjson" in kind:
        answer.streamed = True
        _take_lines(answer, pieces)
    elif pieces:
        _take_whole(answer, pieces[-1][0], b"".join(piece for _, piece in pieces), kind)
    if not answer.failure and not answer.chunks:
        answer.failure = EMPTY


def _start(pieces: list[tuple[int, bytes]]) -> bytes:
    """Return the first bytes that are no space, enough of them to tell a stream by."""
    start = b""
    for _, piece in pieces:
        start = (start + piece[:4096]).lstrip()
        if len(start) >= len(b"event:"):
            break
    return start


def _unpacked(exchange: Exchange) -> Iterator[tuple[int, bytes]]:
    """Return the pieces of the body and their times, without gzip, which was not asked for."""
    from hpcbench.inference.wire import MAX_ANSWER

    packing = exchange.header(b"content-encoding").lower()
    unpack = zlib.decompressobj(47) if packing in (b"gzip", b"deflate") else None  # 47: zlib's or gzip's header
    size = 0
    for time, piece in zip(exchange.arrivals, exchange.pieces, strict=True):
        plain = unpack.decompress(piece, MAX_ANSWER) if unpack else piece
        size += len(plain)
        if size >= 2 * MAX_ANSWER or (unpack and unpack.unconsumed_tail):
            raise OverflowError
        if plain:
            yield time, plain


def _take_stream(answer: _Taken, pieces: list[tuple[int, bytes]]) -> None:
    done = False
    for time, name, data in events(pieces):
        if data.strip() == b"[DONE]":
            done = True
        else:
            _take_event(answer, time, name, data)
    if answer.chunks and not done and not answer.finish_reason:  # a gateway ends it so when its server is gone
        answer.failure = answer.failure or "stream: it ends in the middle, with neither a finish_reason nor [DONE]"


def _take_lines(answer: _Taken, pieces: list[tuple[int, bytes]]) -> None:
    """Take a stream of Ollama's own API: a JSON object a line."""
    done = False
    for time, line in _lines(pieces):
        value = _object(line)
        if value is not None:
            done = _take_ollama(answer, time, value) or done
        elif line.strip():
            answer.failure = answer.failure or f"stream: a line that is not JSON: {_text_of(line)}"
    if not done:
        answer.failure = answer.failure or "stream: it ends in the middle, before done"


def _take_event(answer: _Taken, time: int, name: str, data: bytes) -> None:
    value = _object(data)
    if name == "error" or (value is not None and value.get("error")):
        answer.failure = answer.failure or f"stream: {_message(value or {}) or _text_of(data)}"
    elif value is None:
        answer.failure = answer.failure or f"stream: an event that is not JSON: {_text_of(data)}"
    else:
        _take(answer, time, value, "delta")


def _take_whole(answer: _Taken, time: int, body: bytes, kind: bytes) -> None:
    value = _object(body)
    if value is None:
        said = kind.decode("ascii", "replace").partition(";")[0] or "no type"
        answer.failure = answer.failure or f"body: no JSON but {said}: {_text_of(body)}"
    elif value.get("error"):
        answer.failure = answer.failure or f"body: {_message(value) or _text_of(body)}"
    elif "choices" not in value and isinstance(value.get("message"), dict):
        _take_ollama(answer, time, value)
    else:
        _take(answer, time, value, "message")


def _take(answer: _Taken, time: int, value: Mapping[str, Any], part: str) -> None:
    """Add what one chunk, or a whole answer, says."""
    if isinstance(usage := value.get("usage"), dict):
        answer.usage = usage
        answer.server = {**answer.server, **_times(usage, _SAMBANOVA, 1.0)}
    if isinstance(timings := value.get("timings"), dict):
        told = _times(timings, _LLAMA_CPP, 1e-3)
        answer.server = {**answer.server, **told, **({"server_latency": sum(told.values())} if len(told) == 2 else {})}
    if isinstance(model := value.get("model"), str):
        answer.model = model
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        answer.finish_reason = _text(choice.get("finish_reason")) or answer.finish_reason
        said = choice.get(part)
        said = said if isinstance(said, dict) else {"content": choice.get("text")}
        content = _text(said.get("content"))
        reasoning = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))
        likely = _likely(choice.get("logprobs"))
        answer.likely = answer.likely if answer.chunks else likely
        if content or said.get("tool_calls"):
            answer.first_content = time if answer.first_content is None else answer.first_content
        if content or reasoning or said.get("tool_calls") or likely:
            answer.chunks.append(time)
        answer.texts.append(content)
        answer.thoughts.append(reasoning)


def _take_ollama(answer: _Taken, time: int, value: Mapping[str, Any]) -> bool:
    """Add what one line of Ollama's own API says; tells whether it was the last."""
    if value.get("error"):
        answer.failure = answer.failure or f"stream: {_message(value)}"
        return False
    message = value.get("message")
    said = message if isinstance(message, dict) else {}
    choice = {
        "delta": {**said, "reasoning": said.get("thinking")}, "finish_reason": value.get("done_reason"),
        "logprobs": {"content": value.get("logprobs")},
    }  # fmt: skip
    _take(answer, time, {"model": value.get("model"), "choices": [choice]}, "delta")
    if value.get("done") is not True:
        return False
    answer.usage = {name: value[key] for name, key in _OLLAMA_COUNTS.items() if key in value}
    answer.server = _times(value, _OLLAMA, 1e-9)
    return True


def _likely(told: object) -> dict[str, float]:
    """Read what is told of the first token and of those that could stand in its place.

    In the form of chat completions, which llama.cpp has for the legacy ones as well, or in OpenAI's legacy form.
    """
    told = told if isinstance(told, dict) else {}
    first, legacy = _first(told.get("content")), _first(told.get("top_logprobs"))
    others = first.get("top_logprobs")
    each = [first, *(others if isinstance(others, list) else ())]
    pairs = [*legacy.items(), *((one.get("token"), one.get("logprob")) for one in each if isinstance(one, dict))]
    return {
        token: float(value)
        for token, value in pairs
        if isinstance(token, str) and isinstance(value, int | float) and abs(value) <= _FARTHEST
    }


def _first(told: object) -> Mapping[str, Any]:
    return told[0] if isinstance(told, list) and told and isinstance(told[0], dict) else {}


def _times(told: Mapping[str, Any], names: Mapping[str, str], unit: float) -> dict[str, float]:
    """Read the times that a server tells, in units of so many seconds."""
    found = {name: quantity(told.get(key)) for key, name in names.items()}
    return {name: unit * value for name, value in found.items() if value is not None}


def quantity(value: object) -> float | None:
    """Return a count or a time that a server tells; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e15:
        return None
    return float(value)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):  # parts of a message
        return "".join(part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str))
    return ""


def _refusal(exchange: Exchange, body: bytes) -> str:
    """Say what an answer that is no success says: its status and the server's own message."""
    value = _object(body)
    said = (_message(value) if value is not None else "") or _text_of(body)
    where = exchange.header(b"location")
    if 300 <= exchange.status < 400 and where:
        said = f"it redirects to {_text_of(where)}: set base_url to where it answers"
    return f"status {exchange.status}" + (f": {said}" if said else "")


def _message(value: Mapping[str, Any]) -> str:
    """Find the message of an error in the forms that servers use."""
    error = value.get("error", value)
    if isinstance(error, dict):
        for key in ("message", "detail", "info", "msg"):
            if error.get(key):
                return error[key] if isinstance(error[key], str) else json.dumps(error[key])
        return ""
    return error if isinstance(error, str) else ""


def _text_of(said: bytes) -> str:
    return said.decode("utf-8", "replace")


def _shown(said: str) -> str:
    text = said[: 4 * _TEXT]
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:_TEXT]


def _paired(text: str) -> str:
    """Join the two halves of a letter, which servers of JavaScript may send in two chunks."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
