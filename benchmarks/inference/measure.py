"""How far off they are who measure endpoints: hpcbench, guidellm, aiperf and the `openai` SDK against the truth.

    python -m venv .venv-peers-inference
    .venv-peers-inference/bin/pip install guidellm==0.8.1 aiperf==0.13.0 openai
    .venv/bin/python benchmarks/inference/measure.py --peers .venv-peers-inference/bin/python

A server stamps every send (hpcbench.inference.server); the time to a request's first token is drawn by its prompt. Each
contender is asked for the same: the same prompts, all different, streamed, so many at a time, opened 4 ms apart. What
it exports of each request is held against what the server knows of the same prompt. Each is a process of its own, and
its CPU time is that of all processes that come from it. The server runs on the same cores.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path

import numpy as np
from contenders import WARMUP, Contender, Load, Place, Told, contenders, make_hub

from hpcbench.inference.server import Behaviour, Running, running

LOADS = (Load(1, 50), Load(16, 50), Load(64, 50), Load(256, 50), Load(256, 200), Load(256, 200, 512))
PATIENCE = 600.0  # seconds for one contender
# Whoever loses its parent comes to this process, so that its CPU time is counted as well.
COUNTED = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
child, status = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ), 1
try:
    while True:
        ended, how = os.wait()
        if ended == child:
            status = os.waitstatus_to_exitcode(how)
except ChildProcessError:
    pass
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    file.write(str(used.ru_utime + used.ru_stime))
sys.exit(status)
"""


class FailedError(Exception):
    """A contender could not be measured; says why."""


@dataclass(frozen=True)
class Figures:
    """What came of one contender under one load. Errors are in milliseconds."""

    count: float  # requests that succeeded
    ttft_mean: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float
    unread: float  # from the contender's start of a request until the server had read it, mean, ms
    requests: float  # a second
    tokens: float  # a second
    cpu: float  # seconds
    others: float  # share of the cores that neither the contender nor the server had


def measure(contender: Contender, load: Load, place: Place, server: Running) -> Figures:
    """Run a contender and hold what it says against the truth; raises `FailedError`."""
    server.reset()
    before, began = busy() - own(), time.monotonic()
    cpu = run(contender.command(place, load), place)
    others = (busy() - own() - before) / (time.monotonic() - began) / (os.cpu_count() or 1)
    truth = {each["prompt"]: each for each in server.truth(sends=False)}
    try:
        told = list(contender.read(place))
        if not told:
            raise FailedError("no request succeeded")
        return held(told, truth, load, cpu, others)
    except (OSError, LookupError, ValueError) as error:
        raise FailedError(f"what it exports is not as expected: {error!r}") from None


def held(told: Sequence[Told], truth: dict[str, dict], load: Load, cpu: float, others: float) -> Figures:
    """Hold what a client says of its requests against what the server knows of the same prompts."""
    known = [truth[each.prompt] for each in told]
    received, first, last = (np.array([each[name] for each in known]) / 1e9 for name in ("received", "first", "last"))
    started, ttft, latency = (
        np.array([getattr(each, name) for each in told]) for name in ("started", "ttft", "latency")
    )
    off = [1000 * abs(ttft - (first - received)), 1000 * abs(latency - (last - received))]
    # its own last stamp is the end: a server does not know when what it sent was read
    seconds = float((started + latency).max() - started.min())
    return Figures(
        len(told),
        *(value for each in off for value in (float(each.mean()), float(np.percentile(each, 99)))),
        unread=float(1000 * (received - started).mean()),
        requests=len(told) / seconds,
        tokens=len(told) * load.tokens / seconds,
        cpu=cpu,
        others=others,
    )


def run(command: list[str], place: Place) -> float:
    """Run a process and all that comes from it to their end; returns CPU seconds, raises `FailedError`."""
    used = place.folder / "cpu"
    with (place.folder / "stdout").open("wb") as output, (place.folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTED, str(used), *command], cwd=place.folder, env=place.environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(PATIENCE)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise FailedError(f"no end within {PATIENCE:.0f} s") from None
            raise
    if process.returncode:
        said = "".join((place.folder / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        print(f"{shlex.join(command)}\n{said[-3000:]}", file=sys.stderr)
        last = said.strip().rpartition("\n")[2].replace("|", "/")
        raise FailedError(f"ended with status {process.returncode}: {last[:150]}")
    return float(used.read_text())


@dataclass
class Results:
    """What came of a load: figures of each round, or why there are none."""

    load: Load
    figures: dict[str, list[Figures]]
    failed: dict[str, str]


def measured(load: Load, options: argparse.Namespace, folder: Path) -> Results:
    """Let all contenders measure under a load, in turn."""
    clients = contenders(options.peers)
    results = Results(load, {each.name: [] for each in clients}, {})
    folder.mkdir()
    asked = folder / "prompts.txt"
    numbers = range(WARMUP + load.requests)
    asked.write_text("".join(f"Question {number}: what is {number} times {load.rate}?\n" for number in numbers))
    with running(Behaviour(tokens_per_second=load.rate)) as server:
        for number in range(options.rounds):
            for position, each in enumerate(clients):
                own_folder = folder / f"{number}-{position}"
                place = Place(own_folder, server.url, asked, folder.parent / "hub")
                place.folder.mkdir()
                try:
                    results.figures[each.name].append(figures := measure(each, load, place, server))
                    print(f"{load}: {each.name}: {figures}", file=sys.stderr, flush=True)
                except FailedError as error:
                    results.failed[each.name] = str(error)
                    print(f"{load}: {each.name}: {error}", file=sys.stderr, flush=True)
    return results


def busy() -> float:
    """Return the CPU seconds that this machine has spent, or that were taken from it by another on the same host."""
    user, nice, system, _, _, *more = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return (user + nice + system + sum(more)) / os.sysconf("SC_CLK_TCK")


def own() -> float:
    """Return the CPU seconds of this process, of those that it started and of what they have left behind."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        ticks = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]
        seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return seconds


def table(results: Results) -> Iterator[str]:
    """Write the medians of a load as Markdown; where something failed in a round, that is said instead."""
    load = results.load
    most = load.streams * load.tokens / (0.3 + (load.tokens - 1) / load.rate)
    yield (
        f"{load.streams} × {load.rate} tokens/s, {load.requests} requests of {load.tokens} tokens; the server "
        f"gives {most:,.0f} tokens/s at most:\n"
    )
    heads = ["", "TTFT error, ms", "× hpcbench", "latency error, ms", "× hpcbench", "start → read, ms",
             "CPU s", "× hpcbench", "requests/s", "tokens/s", "others"]  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    middles = {
        name: Figures(*(statistics.median(getattr(each, field.name) for each in rounds) for field in fields(Figures)))
        for name, rounds in results.figures.items()
        if rounds
    }
    base = middles.get("hpcbench")
    for name in results.figures:
        if name in results.failed:
            yield f"| {name} | {results.failed[name]} |{' |' * (len(heads) - 2)}"
            continue
        one = middles[name]

        def ratio(*names: str, one: Figures = one) -> str:
            return " / ".join(short(getattr(one, each) / getattr(base, each), 1) for each in names) if base else "–"

        cells = [
            name if one.count == load.requests else f"{name}: {one.count:.0f} requests of {load.requests}",
            f"{short(one.ttft_mean)} / {short(one.ttft_p99)}",
            ratio("ttft_mean", "ttft_p99"),
            f"{short(one.latency_mean)} / {short(one.latency_p99)}",
            ratio("latency_mean", "latency_p99"),
            short(one.unread),
            f"{one.cpu:.1f}",
            ratio("cpu"),
            f"{one.requests:.1f}",
            f"{one.tokens:,.0f}",
            f"{max(0, 100 * one.others):.0f} %",
        ]
        yield f"| {' | '.join(cells)} |"


def short(value: float, digits: int = 2) -> str:
    """Write a number with no more digits than say something."""
    return f"{value:.{digits}f}" if value < 10 else f"{value:,.{1 if value < 100 else 0}f}"


def circumstances(peers: str | None) -> str:
    """Say what was measured and where; the load is that of others, before anything was started."""
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())  # fmt: skip
    tools = [f"Python {platform.python_version()}"]
    tools += [f"{name} {metadata.version(name)}" for name in ("uvloop", "httptools")]
    if peers:
        ask = "import importlib.metadata as m; print(*(f'{d.name} {d.version}' for d in m.distributions()), sep='\\n')"
        listed = subprocess.run([peers, "-c", ask], capture_output=True, text=True, check=True).stdout.splitlines()
        tools += [line for line in listed if line.split()[0] in ("guidellm", "aiperf", "openai")]
    return f"{os.cpu_count()} cores of {cpu}, load {os.getloadavg()[0]:.1f} before; {', '.join(tools)}"


def chosen(text: str) -> list[Load]:
    """Read loads such as ``16x50,256x200x512``."""
    return [Load(*map(int, each.split("x"))) for each in text.split(",")]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--peers", help="the Python of an environment that has guidellm, aiperf and openai")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument(
        "--loads", type=chosen, default=LOADS, help="streams x tokens a second x tokens: 16x50,64x50x512"
    )
    options = arguments.parse_args()
    options.peers = options.peers and str(Path(options.peers).absolute())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then everything is stopped in order, as for Ctrl-C
    machine = circumstances(options.peers)
    with tempfile.TemporaryDirectory(prefix="hb-") as name:
        folder = Path(name).resolve()
        if options.peers:
            make_hub(folder / "hub")
        results = [measured(load, options, folder / f"{number}") for number, load in enumerate(options.loads)]
    print(machine)
    print(f"rounds: {options.rounds}, all contenders in each, of which the median; errors are mean / p99")
    for each in results:
        print("\n".join(["", *table(each)]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
