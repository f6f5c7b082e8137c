"""How far this client can be trusted on this machine: what it measures of a server that knows the truth.

The server stamps each chunk just before it is sent, by the same clock. The program that measures endpoints is run on it
as on any other, and each of its times is held against the server's, request by request.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench import benchmark, process
from hpcbench.errors import HpcbenchError
from hpcbench.inference.record import FILE
from hpcbench.inference.server import Behaviour, prompt_key, running
from hpcbench.inference.settings import of_case

TOKENS = 64  # of each answer
LIMIT = 0.001  # seconds: the error at which a load is too much
STEPS = (1, 16, 64, 128, 256, 512, 1024)  # streams


@dataclass(frozen=True)
class Error:
    """Measured minus true at one load, as absolute values in seconds: mean and 99th percentile over requests.

    Of gaps, the times between the chunks of an answer, over all of them. `cpu` is the client's, in seconds of CPU a
    second; `tokens_per_second` is what came in.
    """

    streams: int
    rate: float
    requests: int
    tokens_per_second: float
    ttft_mean: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float
    gap_mean: float
    gap_p99: float
    cpu: float
    day: str = ""  # when, such as 2026-01-31

    @property
    def small(self) -> bool:
        """Whether times of this load can be told to a millisecond."""
        return max(self.ttft_p99, self.latency_p99) < LIMIT


def calibrate(streams: Sequence[int], rate: float) -> Iterator[Error]:
    """Measure the client at each number of streams, each of `rate` tokens a second; raises `HpcbenchError`.

    What was found is kept for the reports of this machine (`known`).
    """
    with running(Behaviour(tokens_per_second=rate)) as server:
        for count in streams:
            server.reset()
            error = _measure(server.url, count, rate, server.truth)
            _keep(error)
            yield error


def known(streams: int, rate: float) -> Error | None:
    """Return what was found on this machine for the least load that is no smaller than this one."""
    found = []
    for each in _kept().values():
        with contextlib.suppress(TypeError):  # damaged, or of another version
            error = Error(**each)
            if error.streams >= streams and error.tokens_per_second >= rate and math.isfinite(error.ttft_p99):
                found.append(error)
    return min(found, key=lambda error: error.tokens_per_second, default=None)


def _measure(url: str, streams: int, rate: float, truth: Any) -> Error:
    """Run the program of a case against the server and hold its records against the truth."""
    requests, warmup = max(32, 4 * streams), 2
    own = {"concurrency": streams, "requests": requests, "max_tokens": TOKENS, "warmup": warmup}
    parameters: dict[str, Any] = {**benchmark.load("chat").defaults(), **own}
    case = {"parameters": parameters, "endpoint": {"base_url": url, "model": "truth"}, "repeat": 1}
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as folder:
        (Path(folder) / "case.json").write_text(json.dumps(case), encoding="utf-8")
        argv = [sys.executable, "-m", "hpcbench.inference", "chat"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise HpcbenchError(f"the client failed: {done.stderr.strip().removeprefix('hpcbench: ')}")
        lines = (Path(folder) / FILE).read_text(encoding="utf-8").splitlines()
        said = [json.loads(line) for line in done.stdout.splitlines()]
    _, asked = of_case("chat", case)
    sends = {told["prompt"]: told for told in truth()}
    ttft, latency, gaps = [], [], []
    measured = [row for row in map(json.loads, lines) if row["phase"] == "measured"]
    for row in measured:
        told = sends[prompt_key(asked[row["request"]].messages[-1][1])]
        ttft.append(row["ttft"] - (told["first"] - told["received"]) / 1e9)
        latency.append(row["latency"] - (told["last"] - told["received"]) / 1e9)
        gaps.append(np.array(row["arrivals_us"][1:]) / 1e6 - np.diff(told["sends"]) / 1e9)
    counters = {each["name"]: each["value"] for each in said if each["record"] == "counter"}
    wall = max(row["finished"] for row in measured) - min(row["started"] for row in measured)
    return Error(
        streams, rate, len(measured), counters["output_tokens_per_second"], *_of(np.array(ttft)),
        *_of(np.array(latency)), *_of(np.concatenate(gaps)), counters["client_cpu"] / wall,
        time.strftime("%Y-%m-%d"),
    )  # fmt: skip


def _of(errors: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.abs(errors).mean()), float(np.percentile(np.abs(errors), 99))


def _file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hpcbench"
    return cache / f"calibration-{process.host()}.json"


def _kept() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(error: Error) -> None:
    """Remember it, whole or not at all; where that cannot be done nothing is lost but the memory."""
    file = _file()
    with contextlib.suppress(OSError):
        found = _kept()
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f".{file.name}.{os.getpid()}")
        aside.write_text(json.dumps({**found, f"{error.streams}x{error.rate:g}": asdict(error)}), encoding="utf-8")
        aside.replace(file)
