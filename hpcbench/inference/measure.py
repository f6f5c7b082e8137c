"""One case of a benchmark that measures an endpoint: prompts, warm-up, load, and what came of it.

Runs in the case's folder and reads ``case.json`` there. Leaves a line a request in ``requests.jsonl`` and prints, as
records, what the endpoint accepts, the summary and whether the result is valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench.endpoint import NoTokenError
from hpcbench.errors import HpcbenchError, UsageError
from hpcbench.inference import mmlu, summary
from hpcbench.inference.client import Client, Sender, Work, run
from hpcbench.inference.earlier import asked_before, saturated
from hpcbench.inference.further import Further
from hpcbench.inference.load import Budget, schedule
from hpcbench.inference.negotiate import Accepted, negotiate
from hpcbench.inference.outcome import STOPPED, TOLD, Measured, say, tell
from hpcbench.inference.prompts import Prompt
from hpcbench.inference.record import FILE, Recorder
from hpcbench.inference.settings import Settings, of_case
from hpcbench.inference.turns import Turns
from hpcbench.inference.wire import clock
from hpcbench.site import Endpoint

_RAMP = 0.004  # seconds between the opening of streams: a burst would measure the burst
_TURN = 5.0  # seconds of a turn where requests come at a rate
_LEAD = 20_000_000  # ns from a word to all clients until they begin


def main(kind: str) -> int:
    """Measure the case of the folder that this runs in; returns the exit status: 4 where some requests failed."""
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    settings, asked = of_case(kind, case)
    earlier = _earlier()
    with _turns(case) as turns:
        if settings.until_saturated and (why := saturated(case, Path(".."))):
            say("event", kind="note", message=why)
            say("event", kind="finished", time=time.time())
            return 0
        if before := asked_before(case, Path("..")):
            say("event", kind="note", message=before)
        with _endpoint(case, settings) as where:
            measured = run(_Measurement(kind, where, settings, asked, earlier, turns).work())
    return tell(list(_rows(Path(FILE))), settings, measured, _most(asked, settings))


def _most(asked: Sequence[Prompt], settings: Settings) -> int:
    """Return the most tokens that any request asks for."""
    return max((prompt.max_tokens or settings.max_tokens for prompt in asked), default=1)


def _turns(case: Mapping[str, Any]) -> contextlib.AbstractContextManager[Turns | None]:
    """Take part in the turns of the cases that are measured side by side; nothing for a case alone."""
    if (beside := case.get("beside")) is None:
        return contextlib.nullcontext()
    return Turns(Path("..") / "turns" / f"{beside['group']}", int(beside["position"]), int(beside["count"]))


@contextlib.contextmanager
def _endpoint(case: Mapping[str, Any], settings: Settings) -> Iterator[Endpoint]:
    """Return the site's endpoint, or serve one here while the case runs."""
    if "endpoint" in case:
        yield Endpoint.model_validate(case["endpoint"])
        return
    from hpcbench.inference import embedded

    together = settings.continuous_batching
    with embedded.serving(settings.model_folder, continuous_batching=together, log=Path("server.log")) as served:
        say("counter", name="server_start", value=served.started_in, unit="s")
        yield Endpoint(base_url=served.base_url, model=served.model)


class _Measurement:
    """One measurement: asks what the endpoint accepts, and sends the load by one client or several.

    `earlier` are the blocks of the requests that attempts before this one have measured, by request.
    """

    def __init__(
        self,
        kind: str,
        where: Endpoint,
        settings: Settings,
        asked: Sequence[Prompt],
        earlier: Mapping[int, int],
        turns: Turns | None,
    ) -> None:
        self._kind, self._where, self._settings, self._asked, self._turns = kind, where, settings, asked, turns
        self._left = [number for number in range(settings.warmup, len(asked)) if number not in earlier]
        self._first = max(earlier.values(), default=-1) + 1
        self._times = settings.times()
        self._budget = Budget(settings.max_failures)
        self._stopped = ""
        self._senders: list[Sender] = []
        self._wall = 0.0
        self._cpu = (0, 0)  # of the machine: what the one under it kept, and all

    def _stop(self, why: str) -> None:
        """End at once."""
        self._stopped = self._stopped or why
        for each in self._senders:
            each.stop(why)

    def _enough(self, why: str) -> None:
        """Send no more."""
        if not self._stopped:
            self._stopped = why
            for each in self._senders:
                each.enough(why)

    def _count(self, failed: bool) -> None:
        if why := self._budget.count(failed):
            self._enough(why)

    async def work(self) -> Measured:
        """Measure; raises `HpcbenchError` where the endpoint does not answer, or not all is recorded."""
        loop = asyncio.get_running_loop()
        client = Client(self._where, self._settings, self._asked, self._count, self._enough)
        self._senders.append(client)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, TOLD)
        try:
            return await self._work(client)
        except HpcbenchError:
            if self._stopped == TOLD:
                raise SystemExit(STOPPED) from None
            raise

    async def _work(self, client: Client) -> Measured:
        accepted = await self._negotiate(client)
        async with Recorder(Path(), self._settings.processes) as recorder:
            try:
                await self._start(client, accepted.fields, recorder)
                blocks = await self._send_by_turns()
            except BaseException:
                self._stop("it failed")
                await asyncio.gather(*(each.end() for each in self._senders), return_exceptions=True)
                raise
            fared = await asyncio.gather(*(each.end() for each in self._senders))
        stolen = self._cpu[0] / self._cpu[1] if self._cpu[1] else 0.0
        return Measured(accepted, summary.Clients(fared, self._wall, stolen), self._stopped, blocks)

    async def _start(self, client: Client, fields: Mapping[str, Any], recorder: Recorder) -> None:
        """Get all clients ready, and the endpoint warm."""
        settings = self._settings
        await client.start(fields, recorder.ends.pop())
        further = [Further(self._count, self._enough) for _ in recorder.ends]
        self._senders.extend(further)
        starts = [each.start(self._kind, self._where, fields, recorder.ends.pop()) for each in further]
        await asyncio.gather(*starts)
        if self._turns is not None:
            self._turns.ready()
            await self._turns.mine(lambda: bool(self._stopped))
        await client.warm_up(_RAMP * settings.concurrency)
        streams = min(settings.concurrency, len(self._left)) if settings.pattern == "closed" else 0
        shares = zip(self._senders, _shares(streams, len(self._senders)), strict=True)
        await asyncio.gather(*(each.open(share) for each, share in shares))

    async def _negotiate(self, client: Client) -> Accepted:
        ask = functools.partial(
            negotiate, client.wire, client.asker.post, cold_wait=self._settings.cold_wait, renew=client.asker.renew,
            say=lambda text: say("event", kind="cold", time=time.time(), message=text),
        )  # fmt: skip
        fields, most = _fields(self._where, self._settings), _most(self._asked, self._settings)
        if wanted := self._settings.protocol:
            return await mmlu.agree(ask, fields, most, self._asked[0], wanted, self._where)
        return await ask(fields, most)

    async def _send_by_turns(self) -> range:
        """Send block after block, each in a turn of its own where endpoints are measured side by side.

        Returns the numbers of the blocks.
        """
        turns, block = self._turns, self._first
        for numbers in self._blocks():
            if turns is not None:
                await turns.mine(lambda: bool(self._stopped))
            if self._stopped or (self._settings.duration and self._wall >= self._settings.duration):
                break
            await self._send(numbers, block)
            block += 1
            if turns is not None:
                turns.next()
        return range(self._first, block)

    async def _send(self, numbers: Sequence[int], block: int) -> None:
        """Deal the requests of a block out to the clients, and begin with all of them at once.

        Another's turn, and the writing of requests, take none of the time that sending has.
        """
        settings, count = self._settings, len(self._senders)
        due: list[float] = []
        if settings.pattern != "closed":
            seed = settings.seed + (numbers[0] if numbers else 0)
            due = schedule(settings.pattern, len(numbers), settings.rate, seed, self._times)
        opening = _RAMP * settings.concurrency
        works = [
            Work([numbers[place] for place in places], [due[place] for place in places] if due else [], streams,
                 opening, block)
            for places, streams in zip(
                _dealt(len(numbers), 1 if due else settings.concurrency, count),
                _shares(settings.concurrency, count), strict=True,
            )
        ]  # fmt: skip
        await asyncio.gather(*(each.prepare(work) for each, work in zip(self._senders, works, strict=True)))
        before, began = _stolen(), time.monotonic()
        at = clock() + _LEAD if count > 1 else 0
        after = 0 if due else int(_RAMP * 1e9)  # streams of all clients open one after another, too
        until = clock() + int((settings.duration - self._wall) * 1e9) if settings.duration else 0
        await asyncio.gather(*(each.send(at + place * after, until) for place, each in enumerate(self._senders)))
        self._wall += time.monotonic() - began
        now = _stolen()
        self._cpu = (self._cpu[0] + now[0] - before[0], self._cpu[1] + now[1] - before[1])

    def _blocks(self) -> list[Sequence[int]]:
        """Divide requests into what is sent in one turn.

        One request where they are sequential, else enough to fill all streams some times, or some seconds of a rate.
        """
        numbers, settings = self._left, self._settings
        if self._turns is None or settings.pattern in ("ramp", "replay"):
            return [numbers]
        if settings.pattern == "closed":
            size = 1 if settings.concurrency == 1 else 4 * settings.concurrency
        else:
            size = max(1, round(_TURN * settings.rate))
        return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _shares(whole: int, count: int) -> list[int]:
    """Divide a number of streams among clients."""
    return [len(range(place, whole, count)) for place in range(count)]


def _dealt(requests: int, streams: int, count: int) -> list[list[int]]:
    """Divide requests among clients: each stream gets as many as every other, and each client those of its streams."""
    streams = max(streams, count)
    return [[number for number in range(requests) if number % streams % count == place] for place in range(count)]


def _fields(where: Endpoint, settings: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": where.model,
        "max_tokens": settings.max_tokens,
        "temperature": settings.temperature,
        "seed": settings.seed,
        "stream": settings.stream,
    }
    if settings.stream:
        found["stream_options"] = {"include_usage": True}
    return found


def _earlier() -> dict[int, int]:
    """Take over what attempts before this one measured, which is not sent again; returns request → block."""
    kept = {
        int(row["request"]): row
        for file in sorted(Path().glob(f"attempt-*/{FILE}"))
        for row in _rows(file)
        if row.get("phase") == summary.MEASURED and not row.get("error") and isinstance(row.get("request"), int)
    }
    Path(FILE).write_text("".join(f"{json.dumps(row)}\n" for row in kept.values()), encoding="utf-8")
    return {number: int(row.get("block") or 0) for number, row in kept.items()}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Read request records; a line that a crash cut short is left out."""
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _stolen() -> tuple[int, int]:
    """Return how much CPU time the machine under this one has kept so far, and all there was; zeros off Linux."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)


def start(arguments: Sequence[str]) -> int:
    """Run as a program: an error is one line."""
    try:
        if len(arguments) != 1:
            raise UsageError("write the kind of prompts: squad, chat, long_context or mmlu")
        return main(arguments[0])
    except NoTokenError as error:
        print(f"hpcbench: {error}; {error.mend}", file=sys.stderr)
        return error.exit_code
    except HpcbenchError as error:
        print(f"hpcbench: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"hpcbench: there is no {error.name}: pip install 'hpcbench[inference]'", file=sys.stderr)
        return UsageError.exit_code
