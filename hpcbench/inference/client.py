"""Clients: each is one event loop that sends its share of the requests and hands on what comes back.

The first runs in the process of the case. Where one loop would not keep up there are others, each a process of its own
(`Further`) that runs this module and is told what to send by lines of JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpcbench import endpoint as endpoints
from hpcbench.errors import HpcbenchError, RunError
from hpcbench.inference import prompts, summary
from hpcbench.inference.load import Driver, Enough, Sent
from hpcbench.inference.negotiate import LIMITS
from hpcbench.inference.prompts import Prompt
from hpcbench.inference.record import FILE, About, Outlet
from hpcbench.inference.settings import Settings
from hpcbench.inference.summary import Fared
from hpcbench.inference.wire import Wire, clock
from hpcbench.site import Endpoint

_OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "seed": "seed"}  # Ollama's names
_TICK = 0.02  # seconds between looks at how late the event loop is
_LONGEST = 1 << 31  # bytes of a line between clients


@dataclass(frozen=True)
class Work:
    """What a client does of a block of requests.

    Times are nanoseconds of the monotonic clock, which all processes of a machine share. Where `due` is empty,
    `streams` requests are kept in flight, opened one after another within `opening` seconds.
    """

    numbers: list[int]
    due: list[float]  # seconds after `at`, for each request
    streams: int
    opening: float
    block: int
    at: int = 0  # when it begins; 0 is at once
    until: int = 0  # when no further request is sent; 0 is never


class Sender(Protocol):
    """A client, wherever it runs."""

    async def open(self, streams: int) -> None:
        """Open connections ahead, and get ready."""

    async def send(self, work: Work) -> None:
        """Send the requests of a block; returns when all of them have ended."""

    def enough(self, why: str) -> None:
        """Send no more."""

    def stop(self, why: str) -> None:
        """Send no more, and end what is in flight."""

    async def end(self) -> Fared:
        """Hand over what is left, and be gone."""


class Client:
    """The client of this process. `ended` gets the reason where it sends no more of its own accord."""

    def __init__(
        self, where: Endpoint, settings: Settings, asked: Sequence[Prompt], ended: Callable[[str], object]
    ) -> None:
        base = where.base_url.rstrip("/")
        self.wire = Wire(base.removesuffix("/v1") if where.api == "ollama" else base, settings.timeout)
        self.asker = Asker(where, self.wire)
        self._settings, self._asked, self._ended = settings, asked, ended
        self._enough = Enough(settings.max_failures)
        self._bodies: Sequence[bytes] = ()
        self._outlet: Outlet | None = None
        self._watch = _Watch()
        self._block = 0
        self._driver = Driver(
            self.wire, lambda number: self.asker.bytes(self._bodies[number]), self._finished, self._enough,
            retries=settings.retries, renew=self.asker.renew, seed=settings.seed,
        )  # fmt: skip

    async def start(self, fields: Mapping[str, Any], end: int) -> None:
        """Get ready to send requests with these `fields`; what comes of them goes into the pipe `end`."""
        self._outlet = await Outlet.of(end, lambda: self._end_for(f"what came of the requests is not put in {FILE}"))
        limit = next(name for name in LIMITS if name in fields)
        self._bodies = [self.asker.body(asks(fields, limit, prompt)) for prompt in self._asked]

    def _finished(self, sent: Sent) -> None:
        prompt = self._asked[sent.number]
        phase = "warm-up" if sent.number < self._settings.warmup else summary.MEASURED
        assert self._outlet is not None
        self._outlet.put(sent, About(prompt.id, prompt.question, prompt.answers, phase, self._block))
        if self._enough.stopped:
            self._end_for(self._enough.stopped)

    def _end_for(self, why: str) -> None:
        self.enough(why)
        self._ended(why)

    async def warm_up(self, opening: float) -> None:
        """Send what counts for nothing."""
        await self._driver.closed(range(self._settings.warmup), self._settings.concurrency, opening)

    async def open(self, streams: int) -> None:
        """Do as `Sender` says."""
        await self.wire.open(streams)
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection takes milliseconds in which nothing is stamped
        self._watch.begin()

    async def send(self, work: Work) -> None:
        """Do as `Sender` says."""
        self._block, self._enough.until = work.block, work.until
        if work.due:
            await self._driver.open(work.numbers, work.due, work.at)
        else:
            await self._driver.closed(work.numbers, work.streams, work.opening, work.at)

    def enough(self, why: str) -> None:
        """Do as `Sender` says."""
        self._enough.stopped = self._enough.stopped or why

    def stop(self, why: str) -> None:
        """Do as `Sender` says."""
        self.enough(why)
        self.wire.abort()

    async def end(self) -> Fared:
        """Do as `Sender` says."""
        fared = self._watch.end(self.wire.opened)
        gc.enable()
        self.wire.abort()
        if self._outlet is not None:
            await self._outlet.close()
        return fared


@dataclass
class _Watch:
    """How late the event loop comes to what is due, and what CPU time this process takes."""

    _lags: list[float] = field(default_factory=list)
    _cpu: float = 0.0
    _began: float = 0.0
    _task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._look())
        self._cpu, self._began = _cpu(), time.monotonic()

    async def _look(self) -> None:
        while True:
            due = clock() / 1e9 + _TICK
            await asyncio.sleep(_TICK)
            self._lags.append(max(0.0, clock() / 1e9 - due - 0.001))  # its timers are a millisecond coarse

    def end(self, connections: int) -> Fared:
        """Do as `Sender` says."""
        if self._task is None:
            return Fared(0.0, 0.0, 0.0, 0.0, connections)
        self._task.cancel()
        lags = np.array(self._lags or [0.0])
        return Fared(
            _cpu() - self._cpu, time.monotonic() - self._began, float(np.percentile(lags, 99)), float(lags.max()),
            connections,
        )  # fmt: skip


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Asker:
    """Writes requests; knows the token, which goes nowhere else."""

    def __init__(self, where: Endpoint, wire: Wire) -> None:
        self._where, self._wire = where, wire
        self._headers: dict[str, str] = {}
        self._read()

    def _read(self) -> bool:
        if self._where.token is None:
            return False
        before = dict(self._headers)
        key, _ = endpoints.token(self._where.token)
        self._headers = {"Authorization": f"Bearer {key}"}
        return self._headers != before

    async def renew(self) -> bool:
        """Read the token anew, where it comes from a command; tells whether it is another one."""
        if self._where.token is None or not self._where.token.command:
            return False
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._read)
        except HpcbenchError:
            return False

    def body(self, asked: Mapping[str, Any]) -> bytes:
        """Write the body of a request, given as OpenAI's protocol has it."""
        told = as_ollama(asked) if self._where.api == "ollama" else asked
        return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")

    def post(self, asked: Mapping[str, Any]) -> bytes:
        """Write a request."""
        return self.bytes(self.body(asked))

    def bytes(self, body: bytes) -> bytes:
        """Write a request with this body."""
        path = "/api/chat" if self._where.api == "ollama" else "/chat/completions"
        return self._wire.post(path, self._headers, body)


def asks(fields: Mapping[str, Any], limit: str, prompt: Prompt) -> dict[str, Any]:
    """Say what a request asks; a prompt's own limit of tokens goes before that of all."""
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    own = {} if prompt.max_tokens is None else {limit: prompt.max_tokens}
    return {**fields, **own, "messages": messages}


def as_ollama(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Say the same in Ollama's own words (https://docs.ollama.com/api/chat)."""
    options = {_OPTIONS[name]: value for name, value in asked.items() if name in _OPTIONS}
    return {"model": asked["model"], "messages": asked["messages"], "stream": asked["stream"], "options": options}


class Further:
    """A client in a process of its own; `ended` gets the reason where it sends no more of its own accord."""

    def __init__(self, ended: Callable[[str], object]) -> None:
        self._ended = ended
        self._process: asyncio.subprocess.Process
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._reading: asyncio.Task[None]

    async def start(self, kind: str, where: Endpoint, fields: Mapping[str, Any], end: int) -> None:
        """Start it in the folder of the case. `end` is its pipe to the process that records, and is closed here."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "hpcbench.inference.client", kind, str(end),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=(end,),
            )  # fmt: skip
        finally:
            os.close(end)
        self._reading = asyncio.get_running_loop().create_task(self._read())
        self._say({"endpoint": where.model_dump(mode="json"), "fields": dict(fields)})
        await self._answer()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            if "ended" in told:
                self._ended(told["ended"])
            else:
                self._answers.put_nowait(told)
        self._answers.put_nowait(None)

    def _say(self, what: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, RuntimeError):  # it is gone: the answer that does not come will tell
            self._process.stdin.write(json.dumps(what).encode() + b"\n")

    async def _answer(self) -> dict[str, Any]:
        """Wait until it has done what it was told; raises `RunError` where it is gone."""
        told = await self._answers.get()
        if told is None:
            status = await self._process.wait()
            why = f"a client ended with status {status}, and what it had in flight is not known"
            self._answers.put_nowait(None)
            self._ended(why)
            raise RunError(why)
        return told

    async def open(self, streams: int) -> None:
        """Do as `Sender` says."""
        self._say({"open": streams})
        await self._answer()

    async def send(self, work: Work) -> None:
        """Do as `Sender` says."""
        self._say({"send": asdict(work)})
        await self._answer()

    def enough(self, why: str) -> None:
        """Do as `Sender` says."""
        self._say({"enough": why})

    def stop(self, why: str) -> None:
        """Do as `Sender` says."""
        self._say({"stop": why})

    async def end(self) -> Fared:
        """Do as `Sender` says."""
        self._say({"end": True})
        fared = Fared(**await self._answer())
        await self._process.wait()
        await self._reading
        return fared


async def _serve(kind: str, end: int) -> None:
    """Be a further client: do what each line of standard input says, until it ends."""
    loop = asyncio.get_running_loop()
    told = asyncio.StreamReader(limit=_LONGEST)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    first = json.loads(await told.readline())
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    settings, asked = of_case(kind, case)
    client = Client(Endpoint.model_validate(first["endpoint"]), settings, asked, lambda why: _say(ended=why))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, client.stop, "it was told to stop")
    await client.start(first["fields"], end)
    _say()
    work: set[asyncio.Task[None]] = set()

    async def do(what: Awaitable[None]) -> None:
        await what
        _say()

    while line := await told.readline():
        ((verb, value),) = json.loads(line).items()
        if verb in ("enough", "stop"):
            getattr(client, verb)(value)
        elif verb == "end":
            _say(**asdict(await client.end()))
            return
        else:
            work.add(loop.create_task(do(client.open(value) if verb == "open" else client.send(Work(**value)))))
    client.stop("the process that it belongs to is gone")
    await asyncio.gather(*work)
    await client.end()


def _say(**fields: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(fields) + "\n")
        sys.stdout.flush()


def of_case(kind: str, case: Mapping[str, Any]) -> tuple[Settings, list[Prompt]]:
    """Read how a case asks, and what."""
    parameters = case["parameters"]
    settings = Settings.of(parameters)
    count = settings.warmup + settings.requests
    return settings, prompts.make(kind, {**parameters, "round": case.get("repeat", 1)}, count)


def run(work: Any) -> Any:
    """Run on the fastest event loop there is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


if __name__ == "__main__":
    try:
        run(_serve(sys.argv[1], int(sys.argv[2])))
    except HpcbenchError as error:
        sys.exit(f"hpcbench: a further client: {error}")
