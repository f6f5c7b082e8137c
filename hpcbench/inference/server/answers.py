"""What a request asks for, and its answer in the making: whole, streamed, or streamed through a relay."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hpcbench.inference.server import prompt_key
from hpcbench.inference.server.requests import RefusedError

if TYPE_CHECKING:
    from hpcbench.inference.server import Behaviour
    from hpcbench.inference.server.loop import Connection

MODEL = "stamped"
_TOKENS, _MOST_TOKENS = 64, 1 << 17  # where a request does not say; what it may say
_FIELDS = frozenset({
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "stream", "stream_options",
    "seed",
})  # fmt: skip
_WORDS = [b" w%03d" % number for number in range(1000)]  # of one length, and so all chunks of a stream are
_GROUP, _GROUP_TIME, _LOOK = 20, 500_000_000, 25_000_000  # chunks, ns, ns
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_TAIL = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@dataclass
class Truth:
    """When a request had been read and when its tokens were sent (ns)."""

    prompt: str
    received: int
    stamps: array[int] = field(default_factory=lambda: array("q"))

    def told(self, *, sends: bool) -> dict[str, Any]:
        """Return it as JSON takes it."""
        first, last = (self.stamps[0], self.stamps[-1]) if self.stamps else (None, None)
        told = {"prompt": self.prompt, "received": self.received, "first": first, "last": last}
        return {**told, "sends": self.stamps.tolist()} if sends else told


@dataclass(frozen=True)
class Asked:
    """What a request for a completion says; `prompt` is its key, `words` count those of all messages."""

    chat: bool
    model: str
    prompt: str
    words: int
    tokens: int
    limited: bool
    stream: bool
    usage: bool


class Answer:
    """A completion in the making. The server asks it to `begin`, then for a `step` whenever one is due."""

    def __init__(self, connection: Connection, wanted: Asked, behaviour: Behaviour, truth: Truth) -> None:
        self.connection = connection
        self._asked, self._behaviour, self._truth = wanted, behaviour, truth
        low, high = behaviour.first_token
        self._wait = int((low + (high - low) * int(wanted.prompt, 16) / 16**16) * 1e9)  # ns
        self._interval = 1e9 / behaviour.tokens_per_second  # ns
        self._thoughts = min(behaviour.reasoning, wanted.tokens) if wanted.chat else 0
        self._first = 0  # when the first token is due (ns)
        whole = "chat.completion" if wanted.chat else "text_completion"
        self._base: dict[str, Any] = {
            "id": f"{'chatcmpl' if wanted.chat else 'cmpl'}-{wanted.prompt}-{truth.received}",
            "object": "chat.completion.chunk" if wanted.chat and wanted.stream else whole,
            "created": int(time.time()),
            "model": wanted.model,
        }
        self._reason = "length" if wanted.limited else "stop"

    def begin(self, start: int) -> int:
        """Take when the model is free (ns); returns when the first step is due."""
        self._first = start + self._wait
        return self._first

    def step(self) -> int:
        """Send what is due; returns when the next step is, 0 after the last."""
        raise NotImplementedError

    def _due(self, token: int) -> int:
        return self._first + int(token * self._interval)

    def _choice(self, reason: str | None, **said: Any) -> dict[str, Any]:
        return {**self._base, "choices": [{"index": 0, **said, "finish_reason": reason}]}

    def _usage(self, stamps: Sequence[int]) -> dict[str, Any]:
        words, tokens = self._asked.words, self._asked.tokens
        usage = {"prompt_tokens": words, "completion_tokens": tokens, "total_tokens": words + tokens}
        if not self._behaviour.server_timings or not stamps:
            return usage
        first, last = ((stamp - self._truth.received) / 1e9 for stamp in (stamps[0], stamps[-1]))
        return {**usage, "time_to_first_token": first, "total_latency": last}


class Whole(Answer):
    """An answer that is not streamed: sent when its last token would be."""

    def begin(self, start: int) -> int:
        """Take when the model is free (ns); returns when the last token is due."""
        super().begin(start)
        return self._due(self._asked.tokens - 1)

    def step(self) -> int:
        """Send it."""
        words = [_WORDS[token % 1000].decode() for token in range(self._asked.tokens)]
        thought, text = "".join(words[: self._thoughts]), "".join(words[self._thoughts :])
        message = {"role": "assistant", "content": text, **({"reasoning_content": thought} if thought else {})}
        said = {"message": message} if self._asked.chat else {"text": text, "logprobs": None}
        usage = self._usage([time.monotonic_ns()])
        self.connection.reply(200, {**self._choice(self._reason, **said), "usage": usage}, self._truth.stamps)
        self.connection.done()
        return 0


class Streamed(Answer):
    """An answer of a chunk a token; all of a chunk but the token stands ready."""

    def __init__(self, connection: Connection, wanted: Asked, behaviour: Behaviour, truth: Truth) -> None:
        super().__init__(connection, wanted, behaviour, truth)
        self._sent = 0  # tokens
        self._group = 1  # tokens to send next
        if wanted.chat:
            self._thought = self._around(delta={"reasoning_content": "TOKEN"})
            self._said = self._around(delta={"content": "TOKEN"})
            connection.send(_HEAD + _frame(self._choice(None, delta={"role": "assistant", "content": ""})))
        else:
            self._thought = self._said = self._around(text="TOKEN", logprobs=None)
            connection.send(_HEAD)

    def step(self) -> int:
        """Send the next tokens in one piece; behind the last comes the end of the stream."""
        chunks = []
        for token in range(self._sent, self._sent + self._group):
            before, after = self._thought if token < self._thoughts else self._said
            chunks.append(before + _WORDS[token % 1000] + after)
        self._sent += self._group
        self.connection.send(b"".join(chunks), self._truth.stamps, self._group)
        if self._sent < self._asked.tokens:
            return self._following()
        said: dict[str, Any] = {"delta": {}} if self._asked.chat else {"text": "", "logprobs": None}
        end = _frame(self._choice(self._reason, **said))
        if self._asked.usage:
            end += _frame({**self._base, "choices": [], "usage": self._usage(self._truth.stamps)})
        self.connection.send(end + _TAIL)
        self.connection.done()
        return 0

    def _following(self) -> int:
        return self._due(self._sent)

    def _around(self, **said: Any) -> tuple[bytes, bytes]:
        """Return what comes before and after the token in a chunk."""
        event = _frame(self._choice(None, **said)).partition(b"\r\n")[2]
        before, _, after = event.rpartition(b"TOKEN")
        return b"%x\r\n%b" % (len(before) + len(_WORDS[0]) + len(after) - len(b"\r\n"), before), after


class Relayed(Streamed):
    """An answer as it comes out of the gateway before Sophia.

    There (argonne-lcf/FIRST, vllm_inference_function) a batch closes at its 20th chunk, or at the first
    chunk 0.5 s after the batch before, or at the end; what was closed is looked for every 25 ms.
    """

    def begin(self, start: int) -> int:
        """Take when the model is free (ns); returns when the first group is found."""
        super().begin(start)
        self._closed = self._truth.received  # the batch before
        return self._following()

    def _following(self) -> int:
        for token in range(self._sent, self._asked.tokens):
            due, self._group = self._due(token), token + 1 - self._sent
            if self._group == _GROUP or due - self._closed >= _GROUP_TIME:
                break
        self._closed = due
        looks = -((self._truth.received - due) // _LOOK)  # rounded up
        return self._truth.received + looks * _LOOK


def kind(wanted: Asked, behaviour: Behaviour) -> type[Answer]:
    """Choose how a request is answered."""
    return Whole if not wanted.stream else Relayed if behaviour.relay else Streamed


def decoded(body: bytes) -> dict[str, Any]:
    """Read a request's JSON; raises `RefusedError`."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise RefusedError(400, "the body is no JSON object")
    return told


def unknown_fields(body: dict[str, Any]) -> list[str]:
    """Return what a strict gateway would refuse."""
    return sorted(set(body) - _FIELDS)


def asked(body: dict[str, Any], *, chat: bool) -> Asked:
    """Read what a request asks for; raises `RefusedError`."""
    if chat:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages or not all(isinstance(each, dict) for each in messages):
            raise RefusedError(400, "messages: expected a list of messages")
        texts = [_text(each.get("content")) for each in messages]
        from_user = [text for text, each in zip(texts, messages, strict=True) if each.get("role") == "user"]
        prompt = (from_user or texts)[-1]
    else:
        texts = [prompt := _text(body.get("prompt"))]
    given = [body[name] for name in ("max_completion_tokens", "max_tokens") if body.get(name) is not None]
    tokens = given[0] if given else _TOKENS
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= _MOST_TOKENS:
        raise RefusedError(400, f"max_tokens: expected a whole number from 1 to {_MOST_TOKENS}")
    options = body.get("stream_options")
    return Asked(
        chat=chat,
        model=str(body.get("model") or MODEL),
        prompt=prompt_key(prompt),
        words=sum(len(text.split()) for text in texts),
        tokens=tokens,
        limited=bool(given),
        stream=body.get("stream") is True,
        usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _text(content: Any) -> str:
    """Return the text of a message, which may come in parts, or of a prompt, which may be a list of texts or tokens."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    parts = [each.get("text") if isinstance(each, dict) else each for each in content]
    return "".join(each if isinstance(each, str) else f" {each}" for each in parts if isinstance(each, str | int))


def _frame(event: dict[str, Any]) -> bytes:
    """Write an event of a stream as a chunk of the transfer."""
    data = f"data: {json.dumps(event)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)
