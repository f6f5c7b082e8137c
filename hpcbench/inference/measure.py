"""One case of a benchmark that measures an endpoint: prompts, warm-up, load, and what came of it.

Runs in the case's folder and reads ``case.json`` there. Leaves a line a request in ``requests.jsonl`` and prints, as
records, what the endpoint accepts, the summary and whether the result is valid.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench import endpoint as endpoints
from hpcbench.errors import ConfigError, HpcbenchError, SiteError, UsageError
from hpcbench.inference import calibrate, prompts, summary
from hpcbench.inference.load import Driver, Enough, Pattern, Sent, schedule
from hpcbench.inference.negotiate import Accepted, negotiate
from hpcbench.inference.prompts import Prompt
from hpcbench.inference.record import FILE, About, Recorder
from hpcbench.inference.relay import relay
from hpcbench.inference.turns import Turns
from hpcbench.inference.wire import Wire, clock
from hpcbench.site import Endpoint

_RAMP = 0.004  # seconds between the opening of streams: a burst would measure the burst
_TURN = 5.0  # seconds of a turn where requests come at a rate
_STOPPED = 130  # exit status, as after Ctrl-C
_TICK = 0.02  # seconds between looks at how late the event loop is


@dataclass(frozen=True)
class Settings:
    """How an endpoint is asked: the parameters of the same names."""

    concurrency: int
    requests: int
    max_tokens: int
    pattern: Pattern
    rate: float
    trace: str
    warmup: int
    duration: float
    max_failures: float
    retries: int
    timeout: float
    cold_wait: float
    stream: bool
    temperature: float
    seed: int
    vary_prefix: bool
    slo: str
    model_folder: str

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Settings:
        """Read the parameters of a case; raises `UsageError` where they do not fit each other."""
        settings = cls(**{each.name: parameters[each.name] for each in fields(cls)})
        summary.limits(settings.slo)
        return settings


@dataclass
class Measured:
    """What is known when the load has ended."""

    accepted: Accepted
    client: summary.Client
    stopped: str


@dataclass
class _Watch:
    """How late the event loop comes to what is due, and what CPU time the client takes."""

    lags: list[float] = field(default_factory=list)
    cpu: float = 0.0
    wall: float = 0.0
    stolen: float = 0.0

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        async def look() -> None:
            while True:
                due = clock() / 1e9 + _TICK
                await asyncio.sleep(_TICK)
                self.lags.append(max(0.0, clock() / 1e9 - due - 0.001))  # its timers are a millisecond coarse

        task = loop.create_task(look())
        cpu, wall, before = _cpu(), time.monotonic(), _stolen()
        try:
            yield
        finally:
            self.cpu, self.wall = _cpu() - cpu, time.monotonic() - wall
            stolen, whole = (now - then for now, then in zip(_stolen(), before, strict=True))
            self.stolen = stolen / whole if whole > 0 else 0.0
            task.cancel()


def main(kind: str) -> int:
    """Measure the case of the folder that this runs in; returns the exit status: 4 where some requests failed."""
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    parameters = case["parameters"]
    settings = Settings.of(parameters)
    done = _earlier()
    asked = prompts.make(kind, {**parameters, "round": case.get("repeat", 1)}, settings.warmup + settings.requests)
    with _turns(case) as turns, _endpoint(case, settings) as where:
        measured = _run(_measure(where, settings, asked, done, turns))
    rows = list(_rows(Path(FILE)))
    return _tell(rows, settings, measured, prompts.repeated(asked[settings.warmup :]))


def _run(work: Any) -> Any:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


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

    with embedded.serving(settings.model_folder, log=Path("server.log")) as served:
        _print("counter", name="server_start", value=served.started_in, unit="s")
        yield Endpoint(base_url=served.base_url, model=served.model)


class _Asker:
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

    def post(self, body: Mapping[str, Any]) -> bytes:
        return self.bytes(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))

    def bytes(self, body: bytes) -> bytes:
        return self._wire.post("/chat/completions", self._headers, body)


async def _measure(
    where: Endpoint, settings: Settings, asked: Sequence[Prompt], done: frozenset[int], turns: Turns | None
) -> Measured:
    wire = Wire(where.base_url, settings.timeout)
    asker = _Asker(where, wire)
    enough = Enough(settings.duration, settings.max_failures)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        enough.stopped = enough.stopped or "it was told to stop"
        wire.abort()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        accepted = await negotiate(
            wire, asker.post, _fields(where, settings), cold_wait=settings.cold_wait, renew=asker.renew,
            say=lambda text: _print("event", kind="cold", time=time.time(), message=text),
        )  # fmt: skip
    except SiteError:
        if enough.stopped:
            raise SystemExit(_STOPPED) from None
        raise
    limit = next(name for name in ("max_tokens", "max_completion_tokens") if name in accepted.fields)
    bodies = [_body(accepted.fields, limit, prompt) for prompt in asked]
    warm = range(settings.warmup)
    left = [number for number in range(settings.warmup, len(asked)) if number not in done]
    blocks = _blocks(left, settings, turns)
    about = _about(asked, settings, blocks)
    watch = _Watch()

    def lost() -> None:
        enough.stopped = enough.stopped or f"what came of the requests cannot be written to {FILE}"

    async with Recorder(Path(), lost) as recorder:

        def finished(sent: Sent) -> None:
            recorder.put(sent, about[sent.number])

        driver = Driver(wire, lambda number: asker.bytes(bodies[number]), finished, enough,
                        retries=settings.retries, renew=asker.renew, seed=settings.seed)  # fmt: skip
        if turns is not None:
            turns.ready()
            await turns.mine(lambda: bool(enough.stopped))
        await driver.closed(warm, settings.concurrency, _RAMP * settings.concurrency)
        if settings.pattern == "closed":
            await wire.open(min(settings.concurrency, len(left)))
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection takes milliseconds in which nothing is stamped
        async with watch.looking():
            enough.begin()
            await _send_by_turns(driver, blocks, settings, turns, enough)
        gc.enable()
    wire.abort()
    lags = np.array(watch.lags or [0.0])
    client = summary.Client(
        watch.cpu, watch.wall, float(np.percentile(lags, 99)), float(lags.max()), wire.opened, watch.stolen
    )
    return Measured(accepted, client, enough.stopped)


def _blocks(numbers: Sequence[int], settings: Settings, turns: Turns | None) -> list[Sequence[int]]:
    """Divide requests into what is sent in one turn.

    One request where they are sequential, else enough to fill all streams some times, or some seconds of a rate.
    """
    if turns is None or settings.pattern in ("ramp", "replay"):
        return [numbers]
    if settings.pattern == "closed":
        size = 1 if settings.concurrency == 1 else 4 * settings.concurrency
    else:
        size = max(1, round(_TURN * settings.rate))
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def _about(asked: Sequence[Prompt], settings: Settings, blocks: Sequence[Sequence[int]]) -> list[About]:
    """Say what is known of each request beforehand; blocks of one attempt are not those of another."""
    first = 1000 * len(list(Path().glob("attempt-*")))
    block_of = {number: first + position for position, block in enumerate(blocks) for number in block}
    return [
        About(
            prompt.id, prompt.question, prompt.answers,
            "warm-up" if number < settings.warmup else summary.MEASURED, block_of.get(number, 0),
        )
        for number, prompt in enumerate(asked)
    ]  # fmt: skip


async def _send_by_turns(
    driver: Driver, blocks: Sequence[Sequence[int]], settings: Settings, turns: Turns | None, enough: Enough
) -> None:
    for block in blocks:
        if turns is not None:
            asks = clock()
            await turns.mine(lambda: bool(enough.stopped))
            enough.waited += clock() - asks
        if enough.reached():
            break
        await _send(driver, block, settings)
        if turns is not None:
            turns.next()


async def _send(driver: Driver, block: Sequence[int], settings: Settings) -> None:
    if settings.pattern == "closed":
        await driver.closed(block, settings.concurrency, _RAMP * settings.concurrency)
    else:
        seed = settings.seed + (block[0] if block else 0)
        await driver.open(block, schedule(settings.pattern, len(block), settings.rate, seed, _trace(settings.trace)))


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


def _body(fields: Mapping[str, Any], limit: str, prompt: Prompt) -> bytes:
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    own = {} if prompt.max_tokens is None else {limit: prompt.max_tokens}
    return json.dumps({**fields, **own, "messages": messages}, ensure_ascii=False).encode("utf-8", "replace")


def _trace(file: str) -> list[float]:
    """Read a trace: a time in seconds on each line, rising."""
    if not file:
        return []
    try:
        times = [float(line) for line in Path(file).read_text(encoding="utf-8").split()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"no trace of one time in seconds a line: {error}", file) from None
    if not times or times != sorted(times):
        raise ConfigError("the times of a trace have to rise", file)
    return times


def _earlier() -> frozenset[int]:
    """Take over the requests that attempts before this one measured; returns their numbers: they are not sent again."""
    kept = {
        int(row["request"]): row
        for file in sorted(Path().glob(f"attempt-*/{FILE}"))
        for row in _rows(file)
        if row.get("phase") == summary.MEASURED and not row.get("error") and isinstance(row.get("request"), int)
    }
    Path(FILE).write_text("".join(f"{json.dumps(row)}\n" for row in kept.values()), encoding="utf-8")
    return frozenset(kept)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Read request records; a line that a crash cut short is left out."""
    for line in file.read_text(encoding="utf-8", errors="replace").split("\n"):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _tell(rows: Sequence[Mapping[str, Any]], settings: Settings, measured: Measured, repeated: int) -> int:
    """Print what came of it, as records; returns the exit status."""
    accepted, client = measured.accepted, measured.client
    for name, why in accepted.dropped.items():
        _print("event", kind="field_dropped", message=f"{name}: {why}")
    if accepted.cold_start:
        _print("counter", name="cold_start", value=accepted.cold_start, unit="s")
    held = relay(_arrivals(row) for row in summary.succeeded(rows))
    if held is not None:
        said = (
            f"chunks come in groups of {held.size:.0f} every {held.interval:.2f} s: a gateway passes them on, so the "
            "time to the first token is its own, and times between tokens are not told"
        )
        _print("event", kind="relay", message=said)
        rows = [{key: value for key, value in row.items() if key not in ("tpot", "arrivals_us")} for row in rows]
    for name, (value, unit) in summary.summarise(rows, summary.limits(settings.slo)).items():
        _print("counter", name=name, value=value, unit=unit)
    for name, value, unit in (
        ("client_cpu", client.cpu, "s"), ("client_lag_p99", client.lag_p99, "s"),
        ("client_lag_max", client.lag_max, "s"), ("connections", client.connections, ""),
        ("client_cpu_stolen", client.stolen, ""),
    ):  # fmt: skip
        _print("counter", name=name, value=value, unit=unit)
    for note in summary.notes(rows):
        _print("event", kind="note", message=note)
    rate = sum(row.get("output_tokens") or 0 for row in rows) / max(client.wall, 1e-9)
    if (error := calibrate.known(settings.concurrency, rate)) is not None:
        _print("counter", name="client_error_ttft_p99", value=error.ttft_p99, unit="s")
        _print("counter", name="client_error_latency_p99", value=error.latency_p99, unit="s")
    else:
        _print(
            "event", kind="note", message="this client was not held against the truth at this load: hpcbench calibrate"
        )
    reasons = summary.doubts(rows, client, repeated, measured.stopped)
    for reason in reasons:
        _print("event", kind="invalid", message=f"INVALID: {reason}")
    if not reasons:
        _print("event", kind="valid", message="VALID")
    good = summary.succeeded(rows)
    failed = sum(row["phase"] == summary.MEASURED for row in rows) - len(good)
    if not good:
        first = next((row["error"] for row in rows if row["error"]), "none was sent")
        raise SiteError(f"no request succeeded: {first}")
    if measured.stopped == "it was told to stop":
        return _STOPPED
    _print("event", kind="finished", time=time.time())
    if failed:
        print(f"{failed} of {failed + len(good)} requests failed", file=sys.stderr)
    return 4 if failed else 0


def _arrivals(row: Mapping[str, Any]) -> list[float]:
    return list(np.cumsum(row.get("arrivals_us") or [0.0]) / 1e6)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _stolen() -> tuple[int, int]:
    """Return how much CPU time the machine under this one has kept so far, and all there was; zeros off Linux."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else (0, 0)


def _print(record: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"record": record, **fields}) + "\n")
    sys.stdout.flush()


def run(arguments: Sequence[str]) -> int:
    """Run as a program: an error is one line."""
    try:
        if len(arguments) != 1:
            raise UsageError("write the kind of prompts: squad, chat or long_context")
        return main(arguments[0])
    except HpcbenchError as error:
        print(f"hpcbench: {error}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        print(f"hpcbench: there is no {error.name}: pip install 'hpcbench[inference]'", file=sys.stderr)
        return UsageError.exit_code
