"""Load: when requests are sent, how many at once, what is tried again, and when it is enough."""

from __future__ import annotations

import asyncio
import email.utils
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from hpcbench.inference.wire import Exchange, Wire, clock

Pattern = Literal["closed", "constant", "poisson", "ramp", "replay"]
AGAIN = frozenset({408, 429, 503, 504})  # what a server means by "later"
# Inside a text the quotes would be escaped; some servers send an error that is none.
_ERROR = re.compile(rb'"error"\s*:(?!\s*(?:null|false|""|\{\s*\}))|^event:\s*error', re.MULTILINE)
_LONGEST_PAUSE = 60.0  # seconds between two tries
_NOTHING_ELSE = 50_000  # ns: a round of the event loop that took longer did something
_LOOK = 0.25  # seconds between looks at whether it is enough


@dataclass
class Sent:
    """One request with all of its tries: `exchange` is the last, `paused` the seconds from the first to the last."""

    number: int
    exchange: Exchange
    retries: int = 0
    paused: float = 0.0


@dataclass
class Enough:
    """When no further request is sent: at a time of the clock (0 is never), or at a word from outside."""

    until: int = 0  # nanoseconds
    stopped: str = ""  # why it ended before its time

    def reached(self) -> bool:
        """Tell whether it is enough."""
        return bool(self.stopped) or bool(self.until and clock() >= self.until)


@dataclass
class Budget:
    """How many requests may fail: a share of those so far, looked at from the twentieth on; 1 is all of them."""

    share: float
    _done: int = 0
    _failed: int = 0

    def count(self, failed: bool) -> str:
        """Take note of how a request ended; returns why it is enough, or nothing."""
        self._done += 1
        self._failed += failed
        if self._done >= 20 and self._failed > self.share * self._done:
            return f"{self._failed} of the first {self._done} requests failed"
        return ""


def schedule(pattern: Pattern, count: int, rate: float, seed: int, trace: Sequence[float] = ()) -> list[float]:
    """Return when each of `count` requests is due, in seconds after the start.

    `constant` sends `rate` a second evenly, `poisson` with exponential gaps drawn from `seed`, `ramp` from none to
    `rate` a second evenly rising, `replay` at the times of a trace, which is gone through again where it is too short.
    """
    if pattern == "constant":
        return [number / rate for number in range(count)]
    if pattern == "poisson":
        draw, due, times = random.Random(seed), 0.0, []
        for _ in range(count):
            times.append(due)
            due += -math.log(1.0 - draw.random()) / rate
        return times
    if pattern == "ramp":
        whole = 2.0 * count / rate  # where r(t) = rate · t / T, T is such that the integral up to it is `count`
        return [whole * math.sqrt(number / count) for number in range(count)]
    if pattern == "replay":
        first, length = trace[0], (trace[-1] - trace[0]) * len(trace) / max(1, len(trace) - 1)
        return [trace[number % len(trace)] - first + number // len(trace) * length for number in range(count)]
    raise ValueError(f"{pattern} has no schedule")


class Driver:
    """Sends requests over a wire and hands on what came of each.

    `request` makes the bytes of a request by its number, `finished` takes it when its last try has ended, `renew` gets
    a new token where one is refused and tells whether there is one.
    """

    def __init__(
        self,
        wire: Wire,
        request: Callable[[int], bytes],
        finished: Callable[[Sent], None],
        enough: Enough,
        *,
        retries: int = 3,
        renew: Callable[[], Awaitable[bool]] | None = None,
        seed: int = 0,
    ) -> None:
        self._wire, self._request, self._finished, self._enough = wire, request, finished, enough
        self._retries, self._renew, self._renewing = retries, renew, asyncio.Lock()
        self._draw = random.Random(seed)
        self.spun = 0  # nanoseconds that went into waiting for the moment at which a request was due

    async def closed(self, numbers: Sequence[int], concurrency: int, ramp_up: float = 0.0, at: int = 0) -> None:
        """Keep `concurrency` requests in flight, opened one after another over `ramp_up` seconds.

        It begins `at` a time of the clock, else now.
        """
        left = iter(numbers)
        began = at or clock()
        streams = min(concurrency, len(numbers))

        async def stream(position: int) -> None:
            await self._until(began + int(ramp_up * 1e9 * position / streams))
            for number in _while(left, self._enough):
                await self._one(number, 0)

        await asyncio.gather(*(stream(position) for position in range(streams)))

    async def open(self, numbers: Sequence[int], times: Sequence[float], at: int = 0) -> None:
        """Send each request when it is due, in seconds after `at` a time of the clock, however many are under way."""
        began = at or clock() + 10_000_000
        under_way: set[asyncio.Task[None]] = set()
        for number, due in zip(numbers, times, strict=False):
            when = began + int(due * 1e9)
            await self._until(when, exactly=True)
            if self._enough.reached():
                break
            task = asyncio.ensure_future(self._one(number, when))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _one(self, number: int, scheduled: int) -> None:
        """Send one request until it has an answer that is not "later", or its tries are used up."""
        sent = Sent(number, Exchange(scheduled))
        first, renewed = 0, False
        try:
            while True:
                request = self._request(number)
                sent.exchange = exchange = await self._wire.exchange(request, scheduled)
                sent.retries += exchange.resent > 0
                first = first or exchange.started - exchange.resent
                sent.paused = max(0, exchange.started - first) / 1e9
                if exchange.status == 401 and not renewed and await self._renewed(number, request):
                    renewed = True  # a token that ran out in the middle of a long run
                elif exchange.status not in AGAIN or sent.retries >= self._retries or self._enough.reached():
                    break
                else:
                    await self._until(clock() + int(self._pause(sent) * 1e9))
                    if self._enough.reached():
                        break
                sent.retries += 1
        finally:
            self._finished(sent)

    async def _until(self, when: int, *, exactly: bool = False) -> None:
        """Sleep until a time of the clock, or until it is enough.

        Timers of the loop are a millisecond coarse, so `exactly` waits the end of it out.
        """
        while (left := when - clock()) > 0 and not self._enough.reached():
            if left > 2_000_000 or not exactly:
                await asyncio.sleep(min(max(left / 1e9 - 0.001, 0.001), _LOOK))
                continue
            began = clock()
            await asyncio.sleep(0)
            if (round_trip := clock() - began) < _NOTHING_ELSE:
                self.spun += round_trip

    async def _renewed(self, number: int, refused: bytes) -> bool:
        """Get a new token, once for all requests that bore the old one; tells whether there is one."""
        if self._renew is None:
            return False
        async with self._renewing:
            return self._request(number) != refused or await self._renew()

    def _pause(self, sent: Sent) -> float:
        """Return for how long to wait: as the server says, else twice as long each time, give or take a half."""
        asked = _seconds(sent.exchange.header(b"retry-after").decode("ascii", "replace"))
        pause = 0.5 * 2**sent.retries * (0.5 + self._draw.random()) if asked is None else asked
        return min(max(pause, 0.0), _LONGEST_PAUSE)


def failed(exchange: Exchange) -> bool:
    """Tell whether an answer is an error, as far as can be seen without decoding it: some servers stream theirs."""
    if exchange.failure or not 200 <= exchange.status < 300 or b"html" in exchange.header(b"content-type"):
        return True
    return not exchange.pieces or bool(_ERROR.search(b"".join(exchange.pieces[-2:])))


def _while(numbers: Iterator[int], enough: Enough) -> Iterator[int]:
    while not enough.reached():
        try:
            yield next(numbers)
        except StopIteration:
            return


def _seconds(said: str) -> float | None:
    """Read ``Retry-After``: seconds, or a date."""
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) else None
