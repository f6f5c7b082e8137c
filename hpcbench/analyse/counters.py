"""Hardware counters of each point, and the rates that follow from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import COUNTED, rows

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
    found = by_row(metrics, comparison, "perf-stat")
    return [(row, {**counters, **_derived(counters)}) for row, counters in found]


def by_row(metrics: Metrics, comparison: Comparison, form: str) -> list[tuple[Row, dict[str, Counter]]]:
    """Return the counters that logs of one format hold, for every row that has some."""
    case_of = metrics.owners()
    cases = metrics.cases[metrics.cases["state"].isin(COUNTED)]  # a program that was ended early counted less
    counted = set(zip(cases["run"], cases["case"], strict=True))
    by_case: dict[tuple[str, str], list[Any]] = {}
    for each in rows(metrics.counters[metrics.counters["format"] == form]):
        by_case.setdefault(case_of[each.source], []).append(each)
    found = []
    for row in comparison.rows:
        values: dict[str, list[float]] = {}
        units: dict[str, str] = {}
        for each in (each for case in row.cases if case in counted for each in by_case.get(case, [])):
            values.setdefault(each.name, []).append(float(each.value))
            units[each.name] = each.unit
        counters = {
            name: Counter(tuple(each), units[name])
            for name, each in values.items()
            if not all(math.isnan(value) for value in each)
        }
        if counters:
            found.append((row, counters))
    return found


def _derived(counters: Mapping[str, Counter]) -> dict[str, Counter]:
    rates = {}
    plain = {name.partition(":")[0]: counter for name, counter in counters.items()}  # `cycles:u`, where that is allowed
    for name, over, under, scale, unit in DERIVED:
        if over in plain and under in plain and len(plain[over].values) == len(plain[under].values):
            pairs: Sequence[tuple[float, float]] = list(zip(plain[over].values, plain[under].values, strict=True))
            if all(below > 0 for _, below in pairs):
                rates[name] = Counter(tuple(above / below * scale for above, below in pairs), unit)
    return rates
