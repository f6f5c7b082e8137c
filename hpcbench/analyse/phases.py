"""Where the wall time of a case went: queue, load, compile, warm-up, steady steps, scoring, checkpoints, the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.metrics import rows

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.analyse.summary import Comparison, Row
    from hpcbench.metrics import Metrics

# In the order in which they are shown.
PHASES = (
    "queue", "import", "load", "load model", "load data", "compile", "programming", "warm-up", "steady", "prefill",
    "score", "validation", "checkpoint", "other",
)  # fmt: skip
# The word of an event's kind (before _start and _end) → its phase.
_WORDS = {
    "queue": "queue", "load": "load", "weights": "load", "input": "load", "compile": "compile",
    "programming": "programming", "validation": "validation", "checkpoint": "checkpoint", "import": "import",
    "model": "load model", "data": "load data", "prefill": "prefill", "score": "score",
}  # fmt: skip
_KINDS = tuple(f"{word}_{edge}" for word in _WORDS for edge in ("start", "end"))
_WALL = ("wall_time", "processed_time")  # the second is Cerebras' own: from its first line to its last
_PAUSE = 1000  # times a usual step: logs of several days in one file
_ROUNDING = 1.001  # stamps and step times are printed with few digits


@dataclass(frozen=True)
class Span:
    """A stretch of a case's time, in seconds since 1970, of which `share` is of one phase."""

    phase: str
    start: float
    end: float
    share: float = 1.0

    @property
    def duration(self) -> float:
        """The seconds of the wall time that are of the phase."""
        return (self.end - self.start) * self.share


def phases(metrics: Metrics, cases: Collection[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return one row a case (of `cases`, or all) and phase: run, case, phase, duration in s, share of the wall time.

    The durations of a case add up to its wall time; what nothing tells of is ``other``. A case whose logs tell no time,
    or more than its wall time, has no rows.
    """
    import pandas as pd

    paths: dict[tuple[str, str], list[str]] = {}
    for path, key in metrics.owners().items():
        paths.setdefault(key, []).append(path)
    tables = {name: getattr(metrics, name) for name in ("events", "steps", "counters")}
    places = {name: table.groupby("source", sort=False).indices for name, table in tables.items()}
    found: list[dict[str, object]] = []
    for case in rows(metrics.cases):
        if cases is not None and (case.run, case.case) not in cases:
            continue
        own = {}
        for name, table in tables.items():
            parts = [places[name][path] for path in paths.get((case.run, case.case), ()) if path in places[name]]
            own[name] = table.iloc[np.sort(np.concatenate(parts))] if parts else table.iloc[:0]
        durations = _of_case(own["events"], own["steps"], _wall(own["counters"]))
        total = sum(durations.values())
        found += [
            {"run": case.run, "case": case.case, "phase": phase, "duration": durations[phase],
             "share": durations[phase] / total}
            for phase in PHASES if durations.get(phase, 0) > 0
        ]  # fmt: skip
    return pd.DataFrame(found, columns=["run", "case", "phase", "duration", "share"])


def by_point(metrics: Metrics, comparison: Comparison) -> list[tuple[Row, dict[str, float]]]:
    """Return the mean duration in seconds of each phase, for the rows of a comparison whose logs tell of phases.

    Steps alone tell of none: a log counts that has events of queueing, loading, compiling, validating or the like.
    """
    owners = metrics.owners()
    sources = metrics.events.loc[metrics.events["kind"].isin(_KINDS), "source"].unique()
    telling = {owners[source] for source in sources}
    durations: dict[tuple[str, str], dict[str, float]] = {}
    for each in rows(phases(metrics, {case for row in comparison.rows for case in row.cases if case in telling})):
        durations.setdefault((each.run, each.case), {})[each.phase] = float(each.duration)
    found = []
    for row in comparison.rows:
        if own := [durations[case] for case in row.cases if case in durations]:
            sums = {phase: sum(each.get(phase, 0.0) for each in own) for phase in PHASES}
            found.append((row, {phase: total / len(own) for phase, total in sums.items() if total > 0}))
    return found


def _wall(counters: pd.DataFrame) -> float:
    """Return the wall time that something measured of a case, the longest (it includes the others), or NaN."""
    values = counters.loc[counters["name"].isin(_WALL), "value"]
    return float(values.max()) if len(values) else math.nan


def _of_case(events: pd.DataFrame, steps: pd.DataFrame, wall: float) -> dict[str, float]:
    durations: dict[str, float] = {}
    spans = timeline(events)
    stamps = np.concatenate([events["time"].to_numpy(dtype=float), steps["time"].to_numpy(dtype=float)])
    stamps = stamps[np.isfinite(stamps)]
    if len(stamps) > 1:
        wall = float(stamps.max() - stamps.min()) if math.isnan(wall) else max(wall, float(stamps.max() - stamps.min()))
    for span in spans:
        durations[span.phase] = durations.get(span.phase, 0.0) + span.duration
    for source, of_source in steps.groupby("source", sort=False):
        for phase, duration in _stepping(of_source, events[events["source"] == source], spans).items():
            durations[phase] = durations.get(phase, 0.0) + duration
    known = sum(durations.values())
    if math.isnan(wall):
        return durations
    if known > wall * _ROUNDING:  # logs of a case that overlap, or several runs in one: nothing can be told apart
        return {}
    return {**durations, "other": durations.get("other", 0.0) + wall - known}


def timeline(events: pd.DataFrame) -> list[Span]:
    """Turn pairs of events (``compile_start``, ``compile_end``) into spans whose durations add up to no more than time.

    Of several processes that are in a phase at once each has an equal share of the time.
    """
    processes = list(by_process(events).values())
    return processes[0] if len(processes) == 1 else _shared(processes)


def by_process(events: pd.DataFrame) -> dict[str, list[Span]]:
    """Turn pairs of events into the spans of each process, as its events name it in `process`.

    Of phases that are open at once the one that began last has the time: waiting in a queue for a compile is queue.
    """
    spans: dict[str, list[Span]] = {}
    opened: dict[str, list[str]] = {}
    since: dict[str, float] = {}
    for event in rows(events.sort_values(["time", "line"], kind="stable")):
        word, _, edge = str(event.kind).rpartition("_")
        if word not in _WORDS or edge not in ("start", "end") or not math.isfinite(event.time):
            continue
        process, time = str(getattr(event, "process", "")), float(event.time)
        words = opened.setdefault(process, [])
        if words and time > since[process]:
            spans.setdefault(process, []).append(Span(_WORDS[words[-1]], since[process], time))
        if edge == "start":
            words.append(word)
        elif word in words:
            words.reverse()
            words.remove(word)
            words.reverse()
        since[process] = time
    return spans  # what never ended has no known end


def _shared(processes: Sequence[Sequence[Span]]) -> list[Span]:
    """Cut the spans of processes where one begins or ends, and share each piece among those that are in a phase."""
    spans = [span for process in processes for span in process]
    edges = sorted([(span.start, 1, span.phase) for span in spans] + [(span.end, -1, span.phase) for span in spans])
    shared: list[Span] = []
    running: Counter[str] = Counter()
    since = math.nan
    for time, change, phase in edges:
        if (together := running.total()) and time > since:
            shared += [Span(each, since, time, count / together) for each, count in running.items() if count]
        running[phase] += change
        since = time
    return shared


def _stepping(steps: pd.DataFrame, events: pd.DataFrame, spans: Sequence[Span]) -> dict[str, float]:
    """Return the time of warm-up and steady steps of one log: from their stamps, else the sum of their own times."""
    good = steps["steady"].to_numpy(dtype=bool)
    times = steps["time"].to_numpy(dtype=float)
    attempt = np.nan_to_num(steps["attempt"].to_numpy(dtype=float), nan=1)
    first_rank = np.ones(len(steps), dtype=bool)
    rank = steps["rank"].to_numpy(dtype=float)
    if np.isfinite(rank).any():
        first_rank = rank == np.nanmin(rank)
    if np.isfinite(times).sum() > 1:
        here = first_rank & np.isfinite(times)
        stamps, lines, is_good = times[here], steps["line"].to_numpy()[here], good[here]
        starts = np.concatenate([stamps[:1], stamps[:-1]])
        again = np.concatenate([[False], np.diff(attempt[here]) > 0])
        starts[again] = stamps[again]  # what passed between two attempts was no step
        for event in rows(events[events["kind"] == "run_start"]):
            first = int(np.searchsorted(lines, event.line))
            if first < len(starts) and event.time <= stamps[first]:
                starts[first] = event.time
        gaps = stamps - starts
        idle = gaps > _PAUSE * max(float(np.median(gaps)), 1.0)
        starts[idle] = stamps[idle]
        found = {"warm-up": 0.0, "steady": 0.0}
        ended_warm_up = int(np.argmax(is_good)) if is_good.any() else len(is_good)
        for number, (start, stop) in enumerate(zip(starts.tolist(), stamps.tolist(), strict=True)):
            taken = sum(max(0.0, min(stop, span.end) - max(start, span.start)) * span.share for span in spans)
            found["warm-up" if number < ended_warm_up else "steady"] += max(0.0, stop - start - taken)
        return found
    own = steps["step_time"].to_numpy(dtype=float)
    warm = first_rank & ~good
    return {
        "warm-up": float(np.nansum(own[warm])),
        "steady": float(np.nansum(own[first_rank & good])),
    }
