"""Cases that ran on one machine at the same time, and so may have measured each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from hpcbench.metrics import COUNTED, plural, rows

if TYPE_CHECKING:
    from hpcbench.metrics import Metrics


def overlaps(metrics: Metrics) -> list[tuple[str, str]]:
    """Return run and sentence for each machine on which cases that count overlapped.

    Cases that took turns are not counted: `ran_on` is empty for them.
    """
    spans: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for case in rows(metrics.cases):
        machine = getattr(case, "ran_on", "")
        if isinstance(machine, str) and machine and case.state in COUNTED and case.started < case.ended:
            spans.setdefault((case.run, machine), []).append((case.started, case.ended))
    told = []
    for (run, machine), times in spans.items():
        starts, ends = sorted(start for start, _ in times), sorted(end for _, end in times)
        beside = sum(bisect_left(starts, end) - bisect_right(ends, start) > 1 for start, end in times)
        if beside:
            which = "they may have measured each other; limits.running: 1 in the site file sends one after another"
            told.append((run, f"{plural(beside, 'case')} of {len(times)} ran at the same time on {machine}: {which}"))
    return told
