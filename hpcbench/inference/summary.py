"""What a measurement comes to: each metric over its requests, and whether the result can be trusted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcbench.errors import UsageError
from hpcbench.inference.wire import STOPPED

Rows = Sequence[Mapping[str, Any]]

# Times of a request, in seconds.
TIMES = ("ttft", "ttfo", "tpot", "latency", "latency_from_schedule", "schedule_delay", "server_ttft", "server_latency")
SCORES = ("exact_match", "f1", "contains")
MEASURED = "measured"
MIN_REQUESTS = 30
MIN_SECONDS = 5.0
MAX_FAILED = 0.01  # share of the requests
MAX_DELAY = 0.005  # seconds, 99th percentile: later than that and this client is part of what it measures
_STEADY = 1.0  # seconds: of less nothing can be told
_CAUSES = 5
_PAUSE = 0.01  # seconds between an answer and the next request of its stream
MAX_STOLEN = 0.02
MAX_CPU = 0.8  # of one core: what the event loop has


@dataclass(frozen=True)
class Fared:
    """How one client fared: CPU and wall seconds, how late its event loop came to what was due, connections opened."""

    cpu: float
    wall: float
    lag_p99: float
    lag_max: float
    connections: int


@dataclass(frozen=True)
class Clients:
    """How the clients fared: each of them, and the wall seconds of the load.

    `stolen` is the share of this machine's CPU time that the one under it, which runs others too, kept for itself.
    """

    fared: Sequence[Fared]
    wall: float
    stolen: float = 0.0

    @property
    def cpu(self) -> float:
        """CPU seconds of all of them."""
        return sum(each.cpu for each in self.fared)

    def worst(self, name: str) -> float:
        """Return a figure of the one that fared worst."""
        return max((float(getattr(each, name)) for each in self.fared), default=0.0)


def answered(rows: Rows) -> Rows:
    """Leave out what this client broke off because it was told to stop: that is no failure of the endpoint."""
    return [row for row in rows if row["error"] != STOPPED]


def causes(rows: Rows) -> str:
    """Say why measured requests failed, the most frequent reasons first."""
    counts = Counter(row["error"] for row in rows if row["phase"] == MEASURED and row["error"])
    said = [f"{count} × {error}" for error, count in counts.most_common(_CAUSES)]
    more = sum(counts.values()) - sum(count for _, count in counts.most_common(_CAUSES))
    return "; ".join([*said, *([f"{more} × others"] if more else [])])


def succeeded(rows: Rows) -> Rows:
    """Return the measured requests that have a whole answer."""
    return [row for row in rows if row["phase"] == MEASURED and not row["error"]]


def summarise(rows: Rows, limits: Mapping[str, float] | None = None) -> dict[str, tuple[float, str]]:
    """Return metric → value and unit, over the measured requests; percentiles are interpolated linearly.

    output_tokens_per_second: tokens / (first started -> last chunk), the spans of interleaved blocks added up.
    steady_tokens_per_second: what arrived while at least 90 % of the most requests were under way, by that time; not
    told where that was for less than a second.
    goodput: good requests a second, those that keep all `limits`; good_share: of all, failed ones included. Neither is
    told where a limit is on a time that the answers do not have.
    """
    asked = [row for row in rows if row["phase"] == MEASURED]
    good = succeeded(rows)
    found: dict[str, tuple[float, str]] = {
        "requests": (len(asked), ""),
        "failed_requests": (len(asked) - len(good), ""),
        "retries": (sum(row["retries"] for row in asked), ""),
    }
    if asked:
        found["success_rate"] = (len(good) / len(asked), "")
    for name in TIMES:
        values = _values(good, name)
        if len(values):
            found |= {f"{name}_{word}": (value, "s") for word, value in _spread(values).items()}
    gaps = np.concatenate([_gaps(row) for row in good] or [np.empty(0)])
    if len(gaps):
        found |= {f"chunk_gap_{word}": (value, "s") for word, value in _spread(gaps).items()}
    both = [row for row in good if "server_latency" in row and "latency" in row]
    if both:
        beside = float(np.mean([row["latency"] - row["server_latency"] for row in both]))
        found["network_and_gateway_mean"] = (beside, "s")
    span = sum(end - start for start, end in _spans(good))
    tokens = sum(row.get("output_tokens") or 0 for row in good)
    if span > 0:
        found["requests_per_second"] = (len(good) / span, "requests/s")
        if tokens:
            found["output_tokens_per_second"] = (tokens / span, "tokens/s")
            if (steady := _steady(good)) is not None:
                found["steady_tokens_per_second"] = (steady, "tokens/s")
    for name in SCORES:
        values = _values(good, name)
        if len(values):
            found[name] = (float(values.mean()), "")
    if limits and asked and not _without(good, limits):
        kept = sum(all(_time(row, name) <= most for name, most in limits.items()) for row in good)
        found["good_share"] = (kept / len(asked), "")
        if span > 0:
            found["goodput"] = (kept / span, "requests/s")
    for name in ("input_tokens", "output_tokens"):
        values = _values(good, name)
        if len(values):
            found[f"{name}_mean"] = (float(values.mean()), "tokens")
    return found


def doubts(rows: Rows, client: Clients, stopped: str, most: int) -> list[str]:
    """Return why a result is INVALID; nothing where it is valid. Each is a whole sentence.

    `most` is how many tokens an answer may have.
    """
    asked = [row for row in rows if row["phase"] == MEASURED]
    good = succeeded(rows)
    reasons = []
    if stopped:
        reasons.append(f"it ended before its time: {stopped}")
    if len(good) < MIN_REQUESTS:
        reasons.append(f"{len(good)} requests succeeded, and below {MIN_REQUESTS} their spread is not known")
    span = sum(end - start for start, end in _spans(good))
    if good and span < MIN_SECONDS:
        reasons.append(f"it took {span:.1f} s, and below {MIN_SECONDS:g} s a single disturbance counts too much")
    failed = len(asked) - len(good)
    if asked and failed > MAX_FAILED * len(asked):
        said = f"{failed} of {len(asked)} requests failed, and what failed may have been the slow ones"
        reasons.append(f"{said}: {causes(rows)}")
    # opening a connection is no lateness of this client's
    delays = [row["schedule_delay"] - row.get("connect_time", 0.0) for row in asked if "schedule_delay" in row]
    if delays and (late := float(np.percentile(delays, 99))) > MAX_DELAY:
        reasons.append(
            f"requests were sent up to {1000 * late:.1f} ms late (p99): this client was too slow for the load"
        )
    if (lag := client.worst("lag_p99")) > MAX_DELAY:
        reasons.append(f"the client's event loop was up to {1000 * lag:.1f} ms late (p99)")
    if (busy := max((each.cpu / each.wall for each in client.fared if each.wall > 0), default=0.0)) > MAX_CPU:
        more = f": --clients {len(client.fared) + 1} shares the load"
        reasons.append(f"a client used {100 * busy:.0f} % of its core{more}")
    if client.stolen > MAX_STOLEN:
        reasons.append(f"the host under this virtual machine kept {100 * client.stolen:.0f} % of its CPU time")
    if (repeated := len(rows) - len({row["prompt"] for row in rows})) > 0:
        reasons.append(f"{repeated} prompts were sent before, so a cache of prefixes may have answered them")
    if long := [row["output_tokens"] for row in good if (row.get("output_tokens") or 0) > most]:
        reasons.append(f"answers of up to {max(long):g} tokens are told of where {most} were the limit: who counts?")
    if len(good) > 1 and sum("connect_time" in row for row in good) > 0.1 * len(good) + streams(good):
        reasons.append("the server closes its connections, so times hold what opening them costs it")
    return reasons


def notes(rows: Rows, limits: Mapping[str, float] | None = None) -> list[str]:
    """Return what a reader has to know of the numbers though they are valid."""
    good = succeeded(rows)
    said = []
    if again := sum(row["retries"] for row in rows if row["phase"] == MEASURED):
        said.append(f"{again} times a request was sent again, because the server said later: no latency holds that")
    if good and (missing := _without(good, limits or {})):
        said.append(f"goodput is not told: the answers have no {' and no '.join(missing)}")
    if any(row.get("tokens_counted_by") == "chunks" for row in good):
        said.append("the server does not say how many tokens it made: chunks were counted")
    if cached := sum((row.get("cached_tokens") or 0) > 0 for row in good):
        said.append(f"{cached} prompts were partly answered from a cache")
    if good and not any("ttft" in row for row in good):
        said.append("answers came whole, not as a stream: there is no time to the first token")
    return said


def limits(text: str) -> dict[str, float]:
    """Read limits such as ``ttft=0.5,tpot=0.05``, in seconds; raises `UsageError`."""
    found = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item.partition("=")
        if name not in TIMES or not re.fullmatch(r"[0-9]*\.?[0-9]+", value):
            raise UsageError(f"--slo: {item!r} is not like ttft=0.5; the times are {', '.join(TIMES)}")
        found[name] = float(value)
    return found


def _spread(values: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    p90, p95, p99 = np.percentile(values, (90, 95, 99))
    return {
        "mean": float(values.mean()), "median": float(np.median(values)), "p90": float(p90), "p95": float(p95),
        "p99": float(p99), "min": float(values.min()), "max": float(values.max()),
    }  # fmt: skip


def _values(rows: Iterable[Mapping[str, Any]], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([row[name] for row in rows if row.get(name) is not None], dtype=float)


def _gaps(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the times between chunks; `arrivals_us` has the first chunk's time and then the gaps."""
    return np.array(row.get("arrivals_us", ())[1:], dtype=float) / 1e6


def _spans(rows: Rows) -> list[tuple[float, float]]:
    """Return from when to when each block of requests was under way."""
    blocks: dict[int, tuple[float, float]] = {}
    for row in rows:
        if "started" in row and "last_token" in row:
            start, end = blocks.get(row["block"], (math.inf, -math.inf))
            blocks[row["block"]] = (min(start, row["started"]), max(end, row["last_token"]))
    return list(blocks.values())


def _changes(rows: Rows) -> list[tuple[float, int]]:
    """Return when a request began and when one ended, as +1 and -1, in order; an end comes before a beginning."""
    known = [row for row in rows if "started" in row and "last_token" in row]
    return sorted([(row["started"], 1) for row in known] + [(row["last_token"], -1) for row in known])


def streams(rows: Rows) -> int:
    """Return how many requests were under way at most."""
    return int(max(np.cumsum([change for _, change in _changes(rows)]), default=1))


def _without(good: Rows, limits: Mapping[str, float]) -> list[str]:
    """Return the times that have a limit and that no answer has."""
    return [name for name in limits if good and not any(name in row for row in good)]


def _time(row: Mapping[str, Any], name: str) -> float:
    """Return a time that has a limit; an answer of a single token keeps every limit between tokens."""
    if name == "tpot" and row.get("output_tokens") == 1:
        return 0.0
    return float(row.get(name, math.inf))


def _steady(rows: Rows) -> float | None:
    """Return the tokens a second that arrived while at least 90 % of the most requests were under way."""
    known = [row for row in rows if "started" in row and "last_token" in row and row.get("output_tokens")]
    changes = _changes(known)
    levels = np.cumsum([change for _, change in changes])
    if not len(levels):
        return None
    times = np.array([time for time, _ in changes])
    full = levels >= 0.9 * levels.max()
    stretches: list[list[float]] = []
    for high, begin, end in zip(full[:-1], times[:-1], times[1:], strict=True):
        if high and stretches and begin - stretches[-1][1] <= _PAUSE:
            stretches[-1][1] = end
        elif high:
            stretches.append([begin, end])
    length = sum(until - since for since, until in stretches)
    if length < _STEADY:
        return None
    ends = np.array(stretches).ravel()
    tokens = 0.0
    for row in known:
        when = _arrived(row)
        # an odd place among the ends is inside a stretch, whose own ends belong to it
        inside = np.searchsorted(ends, when, "left") % 2 + np.isin(when, ends) > 0
        tokens += row["output_tokens"] * float(np.count_nonzero(inside)) / len(when)
    return tokens / length


def _arrived(row: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return when the tokens of an answer arrived; evenly over its time where it came whole."""
    if row.get("arrivals_us"):
        return np.asarray(row["started"] + np.cumsum(row["arrivals_us"]) / 1e6)
    return np.linspace(row["started"], row["last_token"], 100)
