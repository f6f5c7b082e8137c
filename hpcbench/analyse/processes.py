"""What the processes of a case did side by side: the load that each paid for itself, and how long they worked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.analyse.phases import Span, by_process
from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import COUNTED

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

LOADING = ("import", "load model", "load data")
WORKING = ("prefill", "score")


@dataclass(frozen=True)
class Processes:
    """The processes of a row, in means over its repeats; times in s.

    `load` is what one process took to import and to load, `work` the prefill and scoring of all of them added up, and
    `working` the time on the clock in which any of them did that.
    """

    row: Row
    count: int
    load: float
    work: float
    working: float

    @property
    def together(self) -> float:
        """How many worked at once, on average."""
        return self.work / self.working if self.working > 0 else 0.0


def processes(metrics: Metrics, comparison: Comparison) -> list[Processes]:
    """Return what the processes of every row did whose logs tell of loading and scoring."""
    cases = metrics.cases[metrics.cases["state"].isin(COUNTED)]
    counted = set(zip(cases["run"], cases["case"], strict=True))
    edges = metrics.events[metrics.events["kind"].str.endswith(("_start", "_end")).astype(bool)]
    events = metrics.by_case(edges)
    found = []
    for row in comparison.rows:
        repeats = [each for case in row.cases if case in counted and case in events if (each := _loading(events[case]))]
        if repeats:
            counts, *times = zip(*(_of_case(each) for each in repeats), strict=True)
            load, work, working = (float(np.mean(each)) for each in times)
            found.append(Processes(row, round(float(np.mean(counts))), load, work, working))
    return found


def _loading(events: pd.DataFrame) -> list[list[Span]]:
    """Return the spans of each process that loaded something."""
    return [spans for spans in by_process(events).values() if any(span.phase in LOADING for span in spans)]


def _of_case(of_processes: Sequence[Sequence[Span]]) -> tuple[int, float, float, float]:
    load = sum(span.duration for spans in of_processes for span in spans if span.phase in LOADING)
    work = [span for spans in of_processes for span in spans if span.phase in WORKING]
    busy, until = 0.0, -np.inf
    for span in sorted(work, key=lambda span: span.start):
        busy += max(0.0, span.end - max(span.start, until))
        until = max(until, span.end)
    return len(of_processes), load / len(of_processes), sum(span.duration for span in work), float(busy)
