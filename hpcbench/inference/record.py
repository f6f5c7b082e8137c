"""Request records: what came of each request, decoded in a process of its own and on disk as soon as it is known.

A client hands over the bytes of an answer through a pipe (`Outlet`) and goes on; this process, which gives way to
every other one, reads them (`hpcbench.inference.decode`) and appends a line to ``requests.jsonl``. What a killed client
had handed over is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

from hpcbench.errors import RunError
from hpcbench.inference import choice, score
from hpcbench.inference.decode import EMPTY, Answer, decode, quantity
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
    asked: choice.Asked | None = None  # of MMLU


class Outlet:
    """A client's end of its pipe to the process that records.

    `lost` is called once where that process is gone before its time.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport

    @classmethod
    async def of(cls, end: int, lost: Callable[[], object]) -> Outlet:
        """Write to a file descriptor, by the event loop that runs; it is closed by `close` and by nobody else."""
        pipe = os.fdopen(end, "wb", 0)
        transport, _ = await asyncio.get_running_loop().connect_write_pipe(lambda: _End(lost), pipe)
        return cls(transport)

    def put(self, sent: Sent, about: About) -> None:
        """Hand over a request."""
        if not self._transport.is_closing():
            self._transport.write(packed(sent, about))

    async def close(self) -> None:
        """Wait until all is handed over."""
        while not self._transport.is_closing() and self._transport.get_write_buffer_size():
            await asyncio.sleep(0.01)
        self._transport.close()


class Recorder:
    """The process that records, and the pipes to it. ``async with Recorder(...)`` ends when all is on disk.

    `ends` are the pipes' file descriptors, one for each client; who takes one closes it, those that are left are
    closed at the end. That raises `RunError` where the process could not write or is gone, with its own words.
    """

    def __init__(self, folder: Path, clients: int = 1) -> None:
        self._folder, self._clients = folder, clients
        self._process: subprocess.Popen[bytes] | None = None
        self.ends: list[int] = []

    async def __aenter__(self) -> Recorder:
        pipes = [os.pipe() for _ in range(self._clients)]
        reads = [read for read, _ in pipes]
        self.ends = [write for _, write in pipes]
        argv = [sys.executable, "-m", "hpcbench.inference.record", str(self._folder / FILE), repr(_EPOCH)]
        try:
            self._process = subprocess.Popen(
                [*argv, *map(str, reads)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=reads
            )
        finally:
            for read in reads:
                os.close(read)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        while self.ends:
            os.close(self.ends.pop())
        await asyncio.to_thread(self._wait, kind)

    def _wait(self, kind: type[BaseException] | None) -> None:
        assert self._process is not None
        _, told = self._process.communicate()
        if self._process.returncode and kind is None:
            said = told.decode("utf-8", "replace").strip().splitlines()
            why = said[-1] if said else f"the process that writes it ended with status {self._process.returncode}"
            raise RunError(f"{FILE} does not hold all requests: {why}")


class _End(asyncio.BaseProtocol):
    def __init__(self, lost: Callable[[], object]) -> None:
        self._lost = lost

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self._lost()


def packed(sent: Sent, about: About) -> bytes:
    """Pack a request for the pipe: cheap, because it happens between measurements."""
    exchange = sent.exchange
    sizes = array("I", map(len, exchange.pieces))
    body = b"".join(exchange.pieces)
    content = (
        replace(exchange, arrivals=[], pieces=[]), array("q", exchange.arrivals), sizes, body,
        (sent.number, sent.retries, sent.paused), about,
    )  # fmt: skip
    data = pickle.dumps(content, protocol=5)
    return len(data).to_bytes(8, "little") + data


def row(sent: Sent, about: About, answer: Answer, epoch: float) -> dict[str, Any]:
    """Write a request as a record; times are Unix seconds, durations seconds, and what there is none of is left out.

    All are those of the last try; `paused` is the time from the first to it, and in none of the durations but
    latency_from_schedule, which is last chunk - scheduled.
    ttft: first chunk - started. ttfo: first chunk that is not reasoning - started. latency: last chunk - started.
    tpot: (last chunk - first chunk) / (output tokens - 1), as vLLM, inference-perf and MLPerf loadgen define it.
    """
    if about.asked is not None and answer.failure == EMPTY and answer.finish_reason:
        answer = replace(answer, failure="")  # a model that says nothing has not named the right letter
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
    }
    if started:
        found["started"] = _time(started, epoch)
        found["scheduled"] = _time(exchange.scheduled or started, epoch)
        found["finished"] = _time(exchange.finished, epoch)
    if exchange.scheduled and started:
        # what the tries before took is not this client's lateness
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
    if (value := quantity(usage.get("prompt_tokens"))) is not None:
        found["input_tokens"] = value
    found |= answer.server
    cached = usage.get("prompt_tokens_details")
    if isinstance(cached, dict) and (value := quantity(cached.get("cached_tokens"))) is not None:
        found["cached_tokens"] = value
    found |= {"chunks": len(chunks), "finish_reason": answer.finish_reason, "model": answer.model}
    if about.answers and not answer.failure:
        found |= {
            "exact_match": score.exact_match(answer.text, about.answers),
            "f1": score.f1(answer.text, about.answers),
            "contains": score.contains(answer.text, about.answers),
        }
    if about.asked is not None and not answer.failure:
        found |= choice.chosen(about.asked, answer)
    if answer.streamed:  # microseconds: the first chunk after `started`, then each after the one before
        # each from the one before as whole numbers, so that their sum stays within one of the truth
        since = [(chunk - started) // 1000 for chunk in chunks]
        found["arrivals_us"] = [now - then for then, now in pairwise([0, *since])]
    found |= {"text": answer.text, "reasoning": answer.reasoning} if answer.text or answer.reasoning else {}
    return found


def output_tokens(answer: Answer) -> tuple[int | None, str]:
    """Return how many tokens an answer has and who counted them: the server's usage, else its chunks."""
    said = quantity(answer.usage.get("completion_tokens"))
    if said is not None and said > 0:
        return int(said), "server"
    if answer.streamed and answer.chunks:
        return len(answer.chunks), "chunks"
    return None, ""


def _time(when: int, epoch: float) -> float:
    return round(epoch + when / 1e9, 6)


def _unpacked(data: bytes) -> tuple[Sent, About]:
    exchange, arrivals, sizes, body, (number, retries, paused), about = pickle.loads(data)  # noqa: S301
    ends = [0, *accumulate(sizes)]
    pieces = [body[start:end] for start, end in pairwise(ends)]
    whole: Exchange = replace(exchange, arrivals=list(arrivals), pieces=pieces)
    return Sent(number, whole, retries, paused), about


def _line(found: Mapping[str, Any]) -> bytes:
    text = json.dumps(found, ensure_ascii=False)
    for letter in ("\x85", "\u2028", "\u2029"):  # where `str.splitlines` would end the line
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode("utf-8", "replace") + b"\n"


def _write(out: IO[bytes], line: bytes) -> None:
    while line:
        line = line[out.write(line) :]


def main(arguments: Sequence[str]) -> None:
    """Record what comes through pipes until they end, also when the job is told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(19)
    with contextlib.suppress(AttributeError, OSError):  # Linux: it runs only where nobody else wants to
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    file, epoch, *pipes = arguments
    with Path(file).open("ab", buffering=0) as out:
        end = out.tell()
        for data in _handed_over(list(map(int, pipes))):
            sent, about = _unpacked(data)  # from our own clients, by pipes that nobody else has
            line = _line(row(sent, about, decode(sent.exchange), float(epoch)))
            try:
                _write(out, line)
            except OSError as error:
                out.truncate(end)  # no half of a line
                sys.exit(f"{Path(file).name}: {error.strerror}")
            end += len(line)


def _handed_over(pipes: Sequence[int]) -> Iterator[bytes]:
    """Yield what comes through pipes until all have ended; what a killed client had begun to hand over is left out."""
    with selectors.DefaultSelector() as ready:
        for pipe in pipes:
            ready.register(pipe, selectors.EVENT_READ, bytearray())
        while ready.get_map():
            for key, _ in ready.select():
                read = os.read(key.fd, 1 << 20)
                if not read:
                    ready.unregister(key.fd)
                    continue
                key.data.extend(read)
                while len(key.data) >= 8 and len(key.data) >= (end := 8 + int.from_bytes(key.data[:8], "little")):
                    yield bytes(key.data[8:end])
                    del key.data[:end]


if __name__ == "__main__":
    main(sys.argv[1:])
