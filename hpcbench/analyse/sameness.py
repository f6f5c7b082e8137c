"""Did every case compute the same? Losses and samples side by side over the axes that must not change them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import rows as rows_of

if TYPE_CHECKING:
    from hpcbench.metrics import Metrics

TOLERANCE = 1e-5  # relative: rounding differs with the order of summation, a different computation differs by far more


@dataclass(frozen=True)
class Sameness:
    """Cases that should have computed the same: equal in everything but `across`.

    `losses` maps a step to the validation loss of each row, NaN where a row has none. `difference` is the largest
    relative difference at any step, NaN where no step has two numbers to compare. `samples` counts the different
    generated texts, 0 when none was logged.
    """

    point: Mapping[str, Any]
    across: tuple[str, ...]
    rows: tuple[Row, ...]
    losses: Mapping[int, tuple[float, ...]]
    cases: int
    difference: float
    samples: int

    @property
    def same(self) -> bool:
        """Whether all losses agree to rounding and there is at most one sample."""
        return self.difference <= TOLERANCE and self.samples <= 1


def sameness(metrics: Metrics, comparison: Comparison, across: Sequence[str]) -> list[Sameness]:
    """Compare validation losses step by step among the rows that differ only in `across`."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    rest = [axis for axis in comparison.axes if axis not in across]
    for row in comparison.rows:
        groups.setdefault(tuple(row.point[axis] for axis in rest), []).append(row)
    case_of = metrics.owners()
    evals = metrics.evals
    losses: dict[tuple[str, str], dict[int, float]] = {}
    for each in rows_of(evals[(evals["task"] == "validation") & (evals["metric"] == "loss")]):
        if each.source in case_of and math.isfinite(each.step):
            losses.setdefault(case_of[each.source], {})[int(each.step)] = float(each.value)
    samples: dict[tuple[str, str], str] = {}
    for each in rows_of(metrics.events[metrics.events["kind"] == "sample"]):
        if each.source in case_of:
            samples[case_of[each.source]] = each.message
    results = []
    for values, rows in groups.items():
        members = [case for row in rows for case in row.cases if case in losses]
        if not members:
            continue
        steps = sorted({step for case in members for step in losses[case]})
        table = {step: tuple(_shown(row, losses, step) for row in rows) for step in steps}
        spread = [_difference([losses[case][step] for case in members if step in losses[case]]) for step in steps]
        texts = {samples[case] for case in members if case in samples}
        results.append(
            Sameness(
                dict(zip(rest, values, strict=True)),
                tuple(axis for axis in comparison.axes if axis in across),
                tuple(rows),
                table,
                len(members),
                max((each for each in spread if not math.isnan(each)), default=math.nan),
                len(texts),
            )
        )
    return results


def _shown(row: Row, losses: Mapping[tuple[str, str], Mapping[int, float]], step: int) -> float:
    found = [losses[case][step] for case in row.cases if case in losses and step in losses[case]]
    return found[0] if found else math.nan


def _difference(values: Sequence[float]) -> float:
    """Return the largest relative difference; a NaN among numbers is infinitely far, nothing but NaN says nothing."""
    finite = [value for value in values if math.isfinite(value)]
    if len(values) < 2 or not finite:
        return math.nan
    if len(finite) < len(values):
        return math.inf
    return (max(values) - min(values)) / max(*(abs(value) for value in values), 1e-300)
