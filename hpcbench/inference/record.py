"""Request records: what came of each request, decoded in a process of its own and on disk as soon as it is known.

The client hands over the bytes of an answer through a pipe (`Recorder`) and goes on; this process, which gives way to
every other one, reads them (`hpcbench.inference.decode`) and appends a line to ``requests.jsonl``. What a killed client
had measured is there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

from hpcbench.inference import score
from hpcbench.inference.decode import Answer, decode
from hpcbench.inference.load import Sent
from hpcbench.inference.wire import Exchange

FILE = "requests.jsonl"
_EPOCH = time.time() - time.monotonic()  # seconds: what the monotonic clock's zero is, by this process's clock


@dataclass(frozen=True)
class About:
    """What is known of a request before it is sent."""

    prompt: str  # hash of its messages
    question: str  # the same without what is varied
    answers: tuple[str, ...]
    phase: str  # warm-up or measured
    block: int = 0


class Recorder:
    """The pipe to the process that records. Use it as a context manager: it ends when all is on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Recorder:
        argv = [sys.executable, "-m", "hpcbench.inference.record", str(self._folder / FILE), repr(_EPOCH)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE)
        return self

    @property
    def pipe(self) -> IO[bytes]:
        """The end to write to, for the event loop of the client."""
        assert self._process is not None
        assert self._process.stdin is not None
        return self._process.stdin

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def packed(sent: Sent, about: About) -> bytes:
    """Pack a request for the pipe: cheap, because it happens between measurements."""
    exchange = sent.exchange
    sizes = array("I", map(len, exchange.pieces))
    body = b"".join(exchange.pieces)
    content = (
        replace(exchange, arrivals=[], pieces=[]), array("q", exchange.arrivals), sizes, body,
        (sent.number, sent.retries, sent.paused, sent.in_flight), about,
    )  # fmt: skip
    data = pickle.dumps(content, protocol=5)
    return len(data).to_bytes(8, "little") + data


def row(sent: Sent, about: About, answer: Answer, epoch: float) -> dict[str, Any]:
    """Write a request as a record; times are Unix seconds, durations seconds, and what there is none of is left out.

    ttft: first chunk - started. ttfo: first chunk that is not reasoning - started. latency: last chunk - started.
    tpot: (last chunk - first chunk) / (output tokens - 1), as vLLM, inference-perf and MLPerf loadgen define it.
    """
    exchange, chunks = sent.exchange, answer.chunks
    started = exchange.started
    tokens, counted = output_tokens(answer)
    usage = answer.usage
    found: dict[str, Any] = {
        "record": "request",
        "request": sent.number,
        "prompt": about.prompt,
        "question": about.question,
        "phase": about.phase,
        "block": about.block,
        "status": str(exchange.status) if exchange.status else "",
        "error": answer.failure,
        "retries": sent.retries,
        "in_flight": sent.in_flight,
    }
    if started:
        found["started"] = _time(started, epoch)
        found["scheduled"] = _time(exchange.scheduled or started, epoch)
        found["finished"] = _time(exchange.finished, epoch)
    if exchange.scheduled and started:
        # paused by the server's wish is not this client's lateness
        found["schedule_delay"] = (started - exchange.scheduled) / 1e9 - sent.paused
    if exchange.connected:
        found["connect_time"] = exchange.connected / 1e9
    if sent.paused:
        found["paused"] = sent.paused
    if chunks and answer.streamed:
        found["first_token"] = _time(chunks[0], epoch)
        found["ttft"] = (chunks[0] - started) / 1e9
        if answer.first_content is not None and answer.reasoning:
            found["ttfo"] = (answer.first_content - started) / 1e9
        if tokens and tokens > 1 and len(chunks) > 1:
            found["tpot"] = (chunks[-1] - chunks[0]) / 1e9 / (tokens - 1)
    if chunks:
        found["last_token"] = _time(chunks[-1], epoch)
        found["latency"] = (chunks[-1] - started) / 1e9
        if exchange.scheduled:
            found["latency_from_schedule"] = (chunks[-1] - exchange.scheduled) / 1e9
    found |= {"output_tokens": tokens, "tokens_counted_by": counted} if tokens is not None else {}
    for name, key in (("input_tokens", "prompt_tokens"), ("server_ttft", "time_to_first_token"),
                      ("server_latency", "total_latency")):  # fmt: skip
        if (value := _number(usage.get(key))) is not None:
            found[name] = value
    cached = usage.get("prompt_tokens_details")
    if isinstance(cached, dict) and (value := _number(cached.get("cached_tokens"))) is not None:
        found["cached_tokens"] = value
    found |= {"chunks": len(chunks), "finish_reason": answer.finish_reason, "model": answer.model}
    if about.answers and not answer.failure:
        found |= {
            "exact_match": score.exact_match(answer.text, about.answers),
            "f1": score.f1(answer.text, about.answers),
            "contains": score.contains(answer.text, about.answers),
        }
    if answer.streamed:  # as microseconds after `started`: the first chunk, then each since the one before
        found["arrivals_us"] = [(now - then) // 1000 for then, now in pairwise([started, *chunks])]
    found |= {"text": answer.text, "reasoning": answer.reasoning} if answer.text or answer.reasoning else {}
    return found


def output_tokens(answer: Answer) -> tuple[int | None, str]:
    """Return how many tokens an answer has and who counted them: the server's usage, else its chunks."""
    said = _number(answer.usage.get("completion_tokens"))
    if said is not None and said > 0:
        return int(said), "server"
    if answer.streamed and answer.chunks:
        return len(answer.chunks), "chunks"
    return None, ""


def _time(when: int, epoch: float) -> float:
    return round(epoch + when / 1e9, 6)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _unpacked(data: bytes) -> tuple[Sent, About]:
    exchange, arrivals, sizes, body, (number, retries, paused, in_flight), about = pickle.loads(data)  # noqa: S301
    ends = [0, *accumulate(sizes)]
    pieces = [body[start:end] for start, end in pairwise(ends)]
    whole: Exchange = replace(exchange, arrivals=list(arrivals), pieces=pieces)
    return Sent(number, whole, retries, paused, in_flight), about


def _line(found: Mapping[str, Any]) -> bytes:
    return (json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")) + b"\n"


def main(arguments: Sequence[str]) -> None:
    """Record what comes through standard input until it ends, also when the job is told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(19)
    with contextlib.suppress(AttributeError, OSError):  # Linux: it runs only where nobody else wants to
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    file, epoch = arguments
    with Path(file).open("ab", buffering=0) as out:
        while len(size := sys.stdin.buffer.read(8)) == 8:
            data = sys.stdin.buffer.read(int.from_bytes(size, "little"))
            sent, about = _unpacked(data)  # from our own client, by a pipe that nobody else has
            out.write(_line(row(sent, about, decode(sent.exchange), float(epoch))))


if __name__ == "__main__":
    main(sys.argv[1:])
