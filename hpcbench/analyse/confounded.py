"""Points that differ in several things at once: no speed-up is credited to one of them, and what would tell them apart.

Experiment E1 as it was published: two processes one after another on a CPU, against two at once on a GPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcbench.metrics import COLUMNS, rows

if TYPE_CHECKING:
    from hpcbench.analyse.measure import Key
    from hpcbench.analyse.summary import Comparison, Row
    from hpcbench.metrics import Metrics

_PLACES = ("run", "site", "device")  # axes along which another device is what is compared


@dataclass(frozen=True)
class Factor:
    """What two points differ in: the value of the baseline, and that of the other point."""

    name: str
    base: Any
    here: Any


@dataclass(frozen=True)
class Confounded:
    """A row that has no ratio, the baseline row that is most like it, and the factors that change together."""

    row: Row
    base: Row
    factors: tuple[Factor, ...]


def computed_on(metrics: Metrics) -> dict[Key, str]:
    """Return what each case computed on, as the event `environment` of its program says in JSON.

    That is the `device_name`, where there is one beside the kind of `device`.
    """
    owners = metrics.owners()
    found = {}
    for event in rows(metrics.events[metrics.events["kind"] == "environment"]):
        try:
            said = json.loads(event.message)
        except (ValueError, RecursionError):
            continue
        name = (said.get("device_name") or said.get("device")) if isinstance(said, dict) else None
        if isinstance(name, str) and event.source in owners:
            found[owners[event.source]] = name
    return found


def moved(where: Mapping[Key, str], row: Row, base: Row) -> bool:
    """Tell whether two points ran on different devices, though none of their axes says so."""
    if any(row.point[axis] != base.point[axis] for axis in _PLACES if axis in row.point):
        return False
    here, there = _devices(where, row), _devices(where, base)
    return bool(here and there) and here.isdisjoint(there)


def _devices(where: Mapping[Key, str], row: Row) -> set[str]:
    return {where[case] for case in row.cases if case in where}


def counterpart(comparison: Comparison, row: Row) -> Row | None:
    """Return the measured baseline row that differs from `row` in the fewest axes; None for one that is a baseline."""
    baseline = comparison.baseline
    bases = [each for each in comparison.rows if all(each.point[axis] == value for axis, value in baseline.items())]
    if any(each is row for each in bases):
        return None
    measured = [each for each in bases if any(spread.values for spread in each.metrics.values())]
    return min(measured, key=lambda each: len(differing(row, each)), default=None)


def differing(row: Row, base: Row) -> list[str]:
    """Return the axes on which two rows stand apart."""
    return [axis for axis, value in row.point.items() if value != base.point[axis]]


def confounded(metrics: Metrics, comparison: Comparison) -> list[Confounded]:
    """Return the measured rows of a benchmark that have no ratio because several things change together.

    The run is no factor: that two runs are of different times is so for whatever they compare.
    """
    if not comparison.benchmark or not comparison.metrics or not COLUMNS[comparison.metrics[0]].is_speed:
        return []
    where = computed_on(metrics)
    points = [row.point for row in comparison.rows]
    found = []
    for row in comparison.rows:
        base = counterpart(comparison, row)
        if base is None or row.ratio is not None or not row.metrics[comparison.metrics[0]].values:
            continue
        elsewhere = moved(where, row, base)
        if {**row.point, **comparison.baseline} in points and not elsewhere:
            continue  # the baseline's own case says nothing, and no other stands for it
        factors = [Factor(axis, base.point[axis], row.point[axis]) for axis in differing(row, base) if axis != "run"]
        if elsewhere:
            there, here = (", ".join(sorted(_devices(where, each))) for each in (base, row))
            factors.append(Factor("device", there, here))
        if len(factors) > 1:
            found.append(Confounded(row, base, tuple(factors)))
    return found
