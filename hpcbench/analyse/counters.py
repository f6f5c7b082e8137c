"""Hardware counters of each point, and the rates that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import rows

if TYPE_CHECKING:
    from hpcbench.metrics import Metrics


@dataclass(frozen=True)
class Counter:
    """A counter at one point: the value of every repeat, in `unit`."""

    values: tuple[float, ...]
    unit: str

    @property
    def mean(self) -> float:
        """Mean over repeats, exact for a single one."""
        return self.values[0] if len(self.values) == 1 else float(np.mean(self.values)) if self.values else math.nan


# name, numerator, denominator, scale, unit: what `perf stat` prints in its right-hand column, from its own counters
DERIVED: tuple[tuple[str, str, str, float, str], ...] = (
    ("CPUs utilised", "task-clock", "wall_time", 1, ""),
    ("clock rate", "cycles", "task-clock", 1e-9, "GHz"),
    ("instructions per cycle", "instructions", "cycles", 1, ""),
    ("branches missed", "branch-misses", "branches", 100, "%"),
)


def perf_counters(metrics: Metrics, comparison: Comparison) -> list[tuple[Row, dict[str, Counter]]]:
    """Return the `perf stat` counters of every row that has some, with the derived rates after them."""
    sources = metrics.sources[metrics.sources["format"].str.contains("perf-stat", regex=False)]
    paths: dict[tuple[str, str], list[str]] = {}
    for path, run, case in zip(sources["path"], sources["run"], sources["case"], strict=True):
        paths.setdefault((run, case), []).append(path)
    by_source = {str(path): rows for path, rows in metrics.counters.groupby("source")}
    found = []
    for row in comparison.rows:
        values: dict[str, list[float]] = {}
        units: dict[str, str] = {}
        for path in (path for case in row.cases for path in paths.get(case, [])):
            for each in rows(by_source[path]) if path in by_source else ():
                values.setdefault(each.name, []).append(float(each.value))
                units[each.name] = each.unit
        counters = {
            name: Counter(tuple(each), units[name])
            for name, each in values.items()
            if not all(math.isnan(value) for value in each)
        }
        if counters:
            found.append((row, {**counters, **_derived(counters)}))
    return found


def _derived(counters: Mapping[str, Counter]) -> dict[str, Counter]:
    rates = {}
    for name, over, under, scale, unit in DERIVED:
        if over in counters and under in counters and len(counters[over].values) == len(counters[under].values):
            pairs: Sequence[tuple[float, float]] = list(zip(counters[over].values, counters[under].values, strict=True))
            if all(below > 0 for _, below in pairs):
                rates[name] = Counter(tuple(above / below * scale for above, below in pairs), unit)
    return rates
