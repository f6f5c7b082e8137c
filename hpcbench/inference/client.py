"""A client: one event loop that sends its share of the requests and hands on what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from hpcbench.inference import choice, summary
from hpcbench.inference.asker import Asker, asks, base_url
from hpcbench.inference.load import Driver, Enough, Sent, failed
from hpcbench.inference.negotiate import LIMITS
from hpcbench.inference.prompts import Prompt
from hpcbench.inference.record import FILE, About, Outlet
from hpcbench.inference.settings import Settings
from hpcbench.inference.summary import Fared
from hpcbench.inference.wire import Wire, clock
from hpcbench.site import Endpoint

_TICK = 0.02  # seconds between looks at how late the event loop is


@dataclass(frozen=True)
class Work:
    """What a client does of a block of requests.

    Where `due` is empty, `streams` requests are kept in flight, opened one after another within `opening` seconds.
    """

    numbers: list[int]
    due: list[float]  # seconds after its beginning, for each request
    streams: int
    opening: float
    block: int


class Sender(Protocol):
    """A client, wherever it runs."""

    async def open(self, streams: int) -> None:
        """Open connections ahead."""

    async def prepare(self, work: Work) -> None:
        """Write the requests of a block."""

    async def send(self, at: int, until: int) -> None:
        """Send what was prepared; returns when all of it has ended.

        It begins `at` a time (0 is at once), and no further request is sent after `until` (0 is never): nanoseconds of
        the monotonic clock, which all processes of a machine share.
        """

    def enough(self, why: str) -> None:
        """Send no more."""

    def stop(self, why: str) -> None:
        """Send no more, and end what is in flight."""

    async def end(self) -> Fared:
        """Hand over what is left, and be gone."""


class Client:
    """The client of this process.

    `counted` gets for each request whether it failed, `ended` the reason where this client sends no more of its own
    accord.
    """

    def __init__(
        self,
        where: Endpoint,
        settings: Settings,
        asked: Sequence[Prompt],
        counted: Callable[[bool], object],
        ended: Callable[[str], object],
    ) -> None:
        self.wire = Wire(base_url(where), settings.timeout)
        self.asker = Asker(where, self.wire)
        self._settings, self._asked, self._counted, self._ended = settings, asked, counted, ended
        self._enough = Enough()
        self._fields: Mapping[str, Any] = {}
        self._bodies: dict[int, bytes] = {}
        self._work: Work | None = None
        self._outlet: Outlet | None = None
        self._watch = _Watch()
        self._driver = Driver(
            self.wire, self._request, self._finished, self._enough,
            retries=settings.retries, renew=self.asker.renew, seed=settings.seed,
        )  # fmt: skip

    async def start(self, fields: Mapping[str, Any], end: int) -> None:
        """Get ready to send requests with these `fields`; what comes of them goes into the pipe `end`."""
        self._fields = fields
        self._outlet = await Outlet.of(end, lambda: self._lost(f"what came of the requests is not put in {FILE}"))

    def _lost(self, why: str) -> None:
        self.enough(why)
        self._ended(why)

    def _request(self, number: int) -> bytes:
        text = choice.protocol(self._fields) == choice.COMPLETIONS
        return self.asker.bytes(self._bodies[number], text=text)

    def _finished(self, sent: Sent) -> None:
        prompt, asked = self._asked[sent.number], None
        phase = "warm-up" if sent.number < self._settings.warmup else summary.MEASURED
        if prompt.put is not None and phase == summary.MEASURED:
            asked = choice.Asked(prompt.put.question, prompt.put.shots, choice.protocol(self._fields))
        assert self._outlet is not None
        block = self._work.block if self._work else 0
        self._outlet.put(sent, About(prompt.id, prompt.question, prompt.answers, phase, block, asked))
        self._counted(failed(sent.exchange))

    def _write(self, numbers: Sequence[int]) -> None:
        limit = next(name for name in LIMITS if name in self._fields)
        self._bodies = {
            number: self.asker.body(asks(self._fields, limit, self._asked[number])) for number in numbers
        }  # fmt: skip

    async def warm_up(self, opening: float) -> None:
        """Send what counts for nothing."""
        self._write(range(self._settings.warmup))
        await self._driver.closed(range(self._settings.warmup), self._settings.concurrency, opening)

    async def open(self, streams: int) -> None:
        """Open connections ahead."""
        await self.wire.open(streams)
        gc.collect()

    async def prepare(self, work: Work) -> None:
        """Write the requests of a block."""
        self._work = work
        self._write(work.numbers)

    async def send(self, at: int, until: int) -> None:
        """Send what was prepared; returns when all of it has ended."""
        work, self._enough.until = self._work, until
        assert work is not None
        gc.freeze()
        gc.disable()  # a collection takes milliseconds in which nothing is stamped
        with self._watch.looking(self._driver):
            if work.due:
                await self._driver.open(work.numbers, work.due, at)
            else:
                await self._driver.closed(work.numbers, work.streams, work.opening, at)
        gc.enable()
        gc.unfreeze()

    def enough(self, why: str) -> None:
        """Send no more."""
        self._enough.stopped = self._enough.stopped or why

    def stop(self, why: str) -> None:
        """Send no more, and end what is in flight."""
        self.enough(why)
        self.wire.abort()

    async def end(self) -> Fared:
        """Hand over what is left, and be gone."""
        self.wire.abort()
        if self._outlet is not None:
            await self._outlet.close()
        return self._watch.fared(self.wire.opened)


@dataclass
class _Watch:
    """How late the event loop comes to what is due, and what CPU time this process takes, while requests are sent."""

    _lags: list[float] = field(default_factory=list)
    _cpu: float = 0.0
    _wall: float = 0.0

    @contextlib.contextmanager
    def looking(self, driver: Driver) -> Iterator[None]:
        task = asyncio.get_running_loop().create_task(self._look())
        cpu, began, spun = _cpu(), time.monotonic(), driver.spun
        try:
            yield
        finally:
            task.cancel()
            # what was spent on waiting for a moment is not spent on requests
            self._cpu += _cpu() - cpu - (driver.spun - spun) / 1e9
            self._wall += time.monotonic() - began

    async def _look(self) -> None:
        while True:
            due = clock() / 1e9 + _TICK
            await asyncio.sleep(_TICK)
            self._lags.append(max(0.0, clock() / 1e9 - due - 0.001))  # its timers are a millisecond coarse

    def fared(self, connections: int) -> Fared:
        lags = np.array(self._lags or [0.0])
        return Fared(self._cpu, self._wall, float(np.percentile(lags, 99)), float(lags.max()), connections)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(work: Any) -> Any:
    """Run on the fastest event loop there is, with as many open files as are allowed: a stream each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
