"""What a report shows of one benchmark, and how values are written for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpcbench.analyse.answers import Pair, Scores
from hpcbench.analyse.counters import Counter
from hpcbench.analyse.paired import LEAST
from hpcbench.analyse.phases import PHASES
from hpcbench.analyse.sameness import Sameness
from hpcbench.analyse.serving import SPREAD, TIMES, WHOLE
from hpcbench.analyse.summary import Comparison, Ratio, Row, Spread
from hpcbench.metrics import COLUMNS, scale, shown, significant

_OPTIONAL = ("± in a run", "± repeats", "95 % interval")  # columns that are left out when no row has one


@dataclass(frozen=True)
class Section:
    """One benchmark: its comparison, sameness checks, counters (of hardware, of requests), time (s, by phase), scores.

    `findings` are sentences; `figures` holds file stem and caption.
    """

    comparison: Comparison
    sameness: Sequence[Sameness]
    counters: Sequence[tuple[Row, Mapping[str, Counter]]]
    requests: Sequence[tuple[Row, Mapping[str, Counter]]]
    phases: Sequence[tuple[Row, Mapping[str, float]]]
    scores: Sequence[Scores]
    pairs: Sequence[Pair]
    findings: Sequence[str]
    figures: list[tuple[str, str]] = field(default_factory=list)


def axis_value(value: object) -> str:
    """Write a parameter's value."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    return shown(str(value)) or '""'


def point_name(point: Mapping[str, Any]) -> str:
    """Name a point of the sweep: ``threads 2, batch 4``."""
    return ", ".join(f"{name} {axis_value(value)}" for name, value in point.items()) or "all cases"


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the comparison table; a column's unit stands in its title, the same for all rows."""
    columns: list[tuple[str, list[str]]] = []
    rows = comparison.rows

    def add(title: str, cells: Iterable[str]) -> None:
        columns.append((title, list(cells)))

    for axis in comparison.axes:
        add(with_unit(axis, comparison.units.get(axis, "")), (axis_value(row.point[axis]) for row in rows))
    # a case that completed but whose log is gone is in no mean
    counts = [
        (max((len(spread.values) for spread in row.metrics.values()), default=row.completed), len(row.cases))
        for row in rows
    ]
    add("runs", (_runs(row, done, planned) for row, (done, planned) in zip(rows, counts, strict=True)))
    for index, name in enumerate(comparison.metrics):
        spreads = [row.metrics[name] for row in rows]
        factor, unit = scale([spread.mean for spread in spreads], COLUMNS[name].unit)
        title = with_unit(COLUMNS[name].label, unit)
        if index == 0:  # the metric that ratios are of, with both its spreads
            add(title, _aligned([spread.mean / factor for spread in spreads]))
            add("± in a run", (significant(spread.over_steps / factor, 2) for spread in spreads))
            add("± repeats", (significant(spread.over_repeats / factor, 2) for spread in spreads))
            columns += _ratio_columns(comparison)
        else:
            add(title, (_with_spread(spread, factor) for spread in spreads))
    columns = [
        (title, cells) for title, cells in columns if title not in _OPTIONAL or any(cell != "–" for cell in cells)
    ]
    return [title for title, _ in columns], [
        list(cells) for cells in zip(*(cells for _, cells in columns), strict=True)
    ]


def _runs(row: Row, done: int, planned: int) -> str:
    """Write how many runs the means are of; those of runs that ended early are said to be."""
    text = str(done) if done == planned else f"{done} of {planned}"
    return f"{text}, failed" if done and not row.completed else text


def phase_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the table that says where the time went: each phase in seconds, and its share."""
    comparison = section.comparison
    axes = [with_unit(axis, comparison.units.get(axis, "")) for axis in comparison.axes]
    there = [phase for phase in PHASES if any(phase in durations for _, durations in section.phases)]
    lines = []
    for row, durations in section.phases:
        total = sum(durations.values())
        cells = [
            f"{_seconds(durations[phase])}, {durations[phase] / total:.0%}" if phase in durations else "–"
            for phase in there
        ]
        lines.append([*(axis_value(row.point[axis]) for axis in comparison.axes), _seconds(total), *cells])
    return [*axes, "all of it", *there], lines


def _seconds(duration: float) -> str:
    """Write a duration in whole seconds, a short one in three digits."""
    return f"{significant(duration, 3)} s" if duration < 100 else f"{duration:,.0f} s"


def spread_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of how each time of the requests is spread, at each point."""
    lines = []
    for row, counters in section.requests:
        for name, label in TIMES.items():
            found = [counters.get(f"{name}_{word}") for word in SPREAD]
            if any(each is not None for each in found):
                lines.append([point_name(row.point), label, *("–" if each is None else _time(each) for each in found)])
    return ["point", "time", *SPREAD], lines


def request_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of what was counted of the requests, at each point; columns that no point has are out."""
    names = [name for name in WHOLE if any(name in counters for _, counters in section.requests)]
    lines = [
        [point_name(row.point), *(_count(counters[name]) if name in counters else "–" for name in names)]
        for row, counters in section.requests
    ]
    return ["point", *(WHOLE[name] for name in names)], lines


def _time(counter: Counter) -> str:
    """Write a duration, in the unit that suits it."""
    factor, unit = scale([counter.mean], "s")
    return f"{significant(counter.mean / factor)} {unit}"


def _count(counter: Counter) -> str:
    return f"{counter.mean:,.0f}" if float(counter.mean).is_integer() else significant(counter.mean)


def _aligned(values: Sequence[float]) -> list[str]:
    """Write a column's numbers with the decimals that give its smallest four digits, unless they are far apart."""
    known = [abs(value) for value in values if math.isfinite(value) and value]
    if not known or max(known) > 10 * min(known) or min(known) >= 1000:
        return [significant(value) for value in values]
    decimals = len(significant(min(known)).partition(".")[2])
    return [f"{value:,.{decimals}f}" if math.isfinite(value) else significant(value) for value in values]


def _ratio_columns(comparison: Comparison) -> list[tuple[str, list[str]]]:
    if not any(row.ratio for row in comparison.rows):
        return []
    ratios = [(row.ratio, row.is_baseline) for row in comparison.rows]
    columns = [
        ("speed-up", ["–" if r is None else "baseline" if base else f"{r.speedup:.2f}×" for r, base in ratios]),
        (
            "95 % interval",
            ["–" if r is None or math.isnan(r.low) else interval(r) for r, _ in ratios],
        ),
        ("slowdown", ["–" if r is None else "baseline" if base else f"{r.slowdown:.2f}×" for r, base in ratios]),
    ]
    if any(r and not math.isnan(r.efficiency) for r, _ in ratios):
        shown = ["–" if r is None or math.isnan(r.efficiency) else f"{r.efficiency:.0%}" for r, _ in ratios]
        columns.append(("efficiency", shown))
    return columns


def interval(ratio: Ratio) -> str:
    """Write a ratio's interval; where the repeats of a side say nothing about its mean it has no bounds."""
    if ratio.high == math.inf:
        return "not bounded"
    low = f"{ratio.low:.2f}" if ratio.low >= 0.01 else "below 0.01"
    high = f"{ratio.high:.2f}" if ratio.high <= 100 else "above 100"
    return f"{low} to {high}"


def asked(comparison: Comparison) -> str:
    """Say over how many questions ratios of endpoints are, as the end of a sentence; nothing for other ratios."""
    pairs = sorted({row.ratio.pairs for row in comparison.rows if row.ratio and row.ratio.pairs})
    if not pairs:
        return ""
    few = f" (an interval takes at least {LEAST})" if pairs[0] < LEAST else ""
    counts = "–".join(str(count) for count in dict.fromkeys((pairs[0], pairs[-1])))
    return f", over the {counts} question{'s' if pairs[-1] > 1 else ''} asked of both{few}"


def _with_spread(spread: Spread, factor: float) -> str:
    """Write a mean with the standard deviation over repeats, where it was repeated."""
    text = significant(spread.mean / factor)
    return text if math.isnan(spread.over_repeats) else f"{text} ± {significant(spread.over_repeats / factor, 2)}"


def with_unit(label: str, unit: str) -> str:
    """Write a label with its unit, as axes and columns have it."""
    return f"{label} ({unit})" if unit and unit != label else label


def counter(value: Counter) -> str:
    """Write a counter: to the last digit when it was read once, else the mean with its spread over repeats."""
    if len(value.values) == 1:
        number = value.values[0]
        return f"{_all_digits(number)} {value.unit}".strip()
    spread = Spread(value.values, 0, math.nan)
    if math.isnan(spread.mean):
        return "–"
    if all(number.is_integer() for number in value.values) and spread.mean >= 1000:
        return f"{spread.mean:,.0f} ± {spread.over_repeats:,.0f} {value.unit}".strip()
    return f"{significant(spread.mean)} ± {significant(spread.over_repeats, 2)} {value.unit}".strip()


def _all_digits(number: float) -> str:
    if number.is_integer():
        return f"{number:,.0f}"
    whole, point, fraction = repr(number).partition(".")
    if not point or "e" in fraction or len(fraction) > 9:  # a quotient, not a figure that something printed
        return significant(number)
    return f"{int(whole):,}.{fraction}"
