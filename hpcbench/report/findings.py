"""Sentences of a report with the numbers and the test behind them: where the time of an evaluation went, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpcbench.analyse.answers import Pair
from hpcbench.analyse.confounded import Confounded, computed_on, confounded, differing, moved
from hpcbench.analyse.counters import Counter, by_row
from hpcbench.analyse.processes import LOADING, Processes, processes
from hpcbench.analyse.summary import Comparison, Row, Spread
from hpcbench.metrics import COLUMNS, plural, quantity
from hpcbench.report.view import interval, point_name

if TYPE_CHECKING:
    from hpcbench.analyse.answers import Scores
    from hpcbench.metrics import Metrics

_SLOWED = 1.2  # times the work of one process after another: less is next to no disturbance
_ALONE = 1.05  # at once, on average: processes one after another, or a single one
_LIKELY = 0.05


def tell(
    metrics: Metrics,
    comparison: Comparison,
    phases: Sequence[tuple[Row, Mapping[str, float]]],
    scores: Sequence[Scores],
    pairs: Sequence[Pair],
) -> list[str]:
    """Return what can be said of the cases of one benchmark beyond its tables; most of it of answers to questions."""
    told = _together(comparison, confounded(metrics, comparison))
    if scores:
        of_rows = processes(metrics, comparison)
        alike = _Alike(metrics, comparison, scores)
        told += _loads(of_rows, alike, phases)
        told += _shared(metrics, comparison, of_rows, alike)
        told += [sentence for row in comparison.rows if (sentence := _verdict(comparison, row))]
        told += [sentence for pair in pairs if (sentence := _other_form(pair))]
    return told


def _together(comparison: Comparison, found: Sequence[Confounded]) -> list[str]:
    """Say what changes together, once for each set of factors, and which cases would tell them apart."""
    groups: dict[tuple[str, ...], list[Confounded]] = {}
    for each in found:
        groups.setdefault(tuple(factor.name for factor in each.factors), []).append(each)
    told = []
    for names, members in groups.items():
        first = members[0]
        here, there = ({each.name: getattr(each, side) for each in first.factors} for side in ("here", "base"))
        metric = comparison.metrics[0]
        times = [quantity(row.metrics[metric].mean, COLUMNS[metric].unit) for row in (first.row, first.base)]
        compared = f"{COLUMNS[metric].label} {times[0]} against {times[1]}"
        more = f" (and {plural(len(members) - 1, 'row')} more)" if len(members) > 1 else ""
        apart = "; ".join(point_name({**there, name: here[name]}) for name in names)
        told.append(
            f"{point_name(here)} against {point_name(there)}{more}: {', '.join(names[:-1])} and {names[-1]} change "
            f"together, so no speed-up is credited to any of them ({compared}). "
            f"What would tell them apart: {apart}"
        )
    return told


class _Alike:
    """Tells which rows did the same work as another: they differ in nothing that changes what is computed."""

    def __init__(self, metrics: Metrics, comparison: Comparison, scores: Sequence[Scores]) -> None:
        self._invariant = {*metrics.invariant.get(comparison.benchmark, ())}
        self._where = computed_on(metrics)
        self._questions = {id(each.row): each.total.count for each in scores}

    def nearest(self, row: Row, others: Sequence[Processes]) -> Processes | None:
        """Return the one of `others` that did the same on the same device, and differs from `row` in the fewest."""
        found = [
            each
            for each in others
            if self._invariant.issuperset(differing(row, each.row))
            and not moved(self._where, row, each.row)
            and self._questions.get(id(row)) == self._questions.get(id(each.row))
        ]
        return min(found, key=lambda each: len(differing(row, each.row)), default=None)


def _loads(of_rows: Sequence[Processes], alike: _Alike, phases: Sequence[tuple[Row, Mapping[str, float]]]) -> list[str]:
    """Say what it costs that each process loads for itself."""
    told = []
    durations = {id(row): each for row, each in phases}
    for each in of_rows:
        if each.count < 2:
            continue
        said = f"{point_name(each.row.point)}: {each.count} processes took {_s(each.load)} of import and load each"
        if (own := durations.get(id(each.row))) is not None:
            said += f", {_s(sum(own.get(phase, 0.0) for phase in LOADING))} of {_s(sum(own.values()))} in all"
        alone = alike.nearest(each.row, [other for other in of_rows if other.count == 1])
        if alone is not None:
            said += f"; the one process of {point_name(alone.row.point)} took {_s(alone.load)}"
        told.append(said)
    return told


def _shared(metrics: Metrics, comparison: Comparison, of_rows: Sequence[Processes], alike: _Alike) -> list[str]:
    """Say where processes at once need more time for the same questions than one after another."""
    told = []
    exits = {id(row): counters for row, counters in by_row(metrics, comparison, "hpcbench-exit")}
    devices = {
        id(row) for row, found in by_row(metrics, comparison, "hpcbench-records") if "max_device_memory" in found
    }
    for each in of_rows:
        alone = [other for other in of_rows if other.together < _ALONE]
        several = [other for other in alone if other.count > 1]
        base = alike.nearest(each.row, several) or alike.nearest(each.row, alone)
        if each.together < _SLOWED or base is None or each.work < _SLOWED * base.work or base.work <= 0:
            continue
        cpu = [_cpu_time(exits.get(id(row), {})) for row in (each.row, base.row)]
        beside = "" if math.isnan(sum(cpu)) else f"; CPU time {_s(cpu[0])} against {_s(cpu[1])}"
        told.append(
            f"{point_name(each.row.point)}: {each.count} processes, {each.together:.1f} at once, needed "
            f"{_s(each.work)} of prefill and scoring between them, {each.work / base.work:.2f} times as much as "
            f"{point_name(base.row.point)} ({_s(base.work)}): they share the "
            f"{'machine' if id(each.row) in devices else 'cores'}, and on the clock it was {_s(each.working)} against "
            f"{_s(base.working)}{beside}"
        )
    return told


def _cpu_time(counters: Mapping[str, Counter]) -> float:
    return sum(counters[name].mean if name in counters else math.nan for name in ("user_time", "system_time"))


def _verdict(comparison: Comparison, row: Row) -> str:
    """Say whether a row is faster than the baseline, or why that is not known."""
    against = {**row.point, **comparison.baseline}
    base = next((each for each in comparison.rows if each.point == against), None)
    if row.ratio is None or row.is_baseline or base is None:
        return ""
    metric = comparison.metrics[0]
    unit, label = COLUMNS[metric].unit, COLUMNS[metric].label
    here, there = row.metrics[metric], base.metrics[metric]
    said = (
        f"{point_name(row.point)} against {point_name(base.point)}: {label} {quantity(here.mean, unit)} against "
        f"{quantity(there.mean, unit)}"
    )
    ratio = row.ratio
    if not math.isnan(ratio.low):
        bounds = f"{ratio.speedup:.2f}×, 95 % interval {interval(ratio)}"
        word = "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "not distinguishable"
        return f"{said}: {word} ({bounds})"
    if len(here.values) == len(there.values) == 1:
        return f"{said} ({ratio.speedup:.2f}×), each measured once: nothing says whether it would be so again"
    one, several = (here, there) if len(here.values) == 1 else (there, here)
    p = _as_one_more(one.mean, several)
    word = "not distinguishable" if p > _LIKELY else "faster" if ratio.speedup > 1 else "slower"
    spread = " to ".join(quantity(each, unit) for each in (min(several.values), max(several.values)))
    return f"{said}: {word} (one run against {len(several.values)} of {spread}; p = {p:.2g})"


def _as_one_more(value: float, repeats: Spread) -> float:
    """Return how likely one more repeat would be as far from the others: Student's t, two-sided, n - 1 degrees."""
    from scipy.stats import t

    count = len(repeats.values)
    spread = repeats.over_repeats * math.sqrt(1 + 1 / count)
    if not spread > 0:
        return 1.0 if value == repeats.mean else 0.0
    return 2 * float(t.sf(abs(value - repeats.mean) / spread, count - 1))


def _other_form(pair: Pair) -> str:
    """Say that two scores are not of the same questions put and read in the same way."""
    ways = [" and ".join(each) for each in pair.protocols]
    reasons = [f"answers were read by {ways[1]} against {ways[0]}"] if ways[0] != ways[1] else []
    if pair.reworded:
        reasons.append(f"{pair.reworded} of {pair.count} questions were put in other words")
    names = f"{point_name(pair.row.point)} against {point_name(pair.base.point)}"
    return f"{names}: {' and '.join(reasons)}, so their scores differ in more than what answered" if reasons else ""


def _s(seconds: float) -> str:
    return quantity(seconds, "s", 3)
