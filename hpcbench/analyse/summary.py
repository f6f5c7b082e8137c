"""One comparison table over a sweep: each point's steady mean, its spread over steps and repeats, and ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.errors import UsageError, nearest
from hpcbench.metrics import COLUMNS, COUNTED, rows, shown

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

# Axes whose value says how many devices share the work: ideal speed-up is proportional to it.
SCALING = frozenset(
    {"threads", "cores", "processes", "ranks", "world_size", "gpus", "devices", "nodes", "workers", "ws", "np", "nproc"}
)


_FALLBACK = (  # headline of logs that name none: the first three that there are
    "step_time", "tokens_per_second", "samples_per_second", "tokens_per_second_per_device",
    "duration", "output_tokens_per_second", "ttft_mean", "latency_mean", "requests_per_second", "wall_time",
)  # fmt: skip
_CONFIDENCE = 0.95
_APART = ("endpoint", "model", "strategy", "scenario", "backend")  # columns of counters that tell measurements apart


@dataclass(frozen=True)
class Spread:
    """A metric at one point: `values` holds one mean a repeat, each over that repeat's steady steps.

    `over_steps` is the standard deviation over steps within a repeat (root mean square over repeats), `over_repeats`
    that of the repeats' means; both with n - 1, NaN where there are too few.
    """

    values: tuple[float, ...]
    steps: int
    over_steps: float
    sources: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean over repeats."""
        return float(np.mean(self.values)) if self.values else math.nan

    @property
    def over_repeats(self) -> float:
        """Standard deviation over repeats."""
        if len(self.values) < 2 or not math.isfinite(self.mean):
            return math.nan
        # equal values have a mean that is rounded, and so a tiny spread that is not theirs
        if min(self.values) == max(self.values):
            return 0.0
        largest = max(map(abs, self.values))  # whose square may be more than a float holds
        return float(np.std([value / largest for value in self.values], ddof=1)) * largest


@dataclass(frozen=True)
class Ratio:
    """Speed-up against the baseline (above 1 is better), with its 95 % interval where both sides were repeated."""

    speedup: float
    low: float = math.nan
    high: float = math.nan
    efficiency: float = math.nan

    @property
    def slowdown(self) -> float:
        """The inverse of the speed-up."""
        return 1 / self.speedup if self.speedup else math.nan


@dataclass(frozen=True)
class Row:
    """One point of the sweep: its values on the axes, its cases, and what they measured."""

    point: Mapping[str, Any]
    cases: tuple[tuple[str, str], ...]
    completed: int
    metrics: Mapping[str, Spread]
    ratio: Ratio | None = None
    is_baseline: bool = False


@dataclass(frozen=True)
class Comparison:
    """The cases of one benchmark side by side. `metrics[0]` is what ratios are of."""

    benchmark: str
    title: str
    axes: tuple[str, ...]
    fixed: Mapping[str, Any]
    metrics: tuple[str, ...]
    baseline: Mapping[str, Any]
    rows: tuple[Row, ...]
    warmup: tuple[int, ...] = ()  # the steps that no mean includes
    units: Mapping[str, str] = field(default_factory=dict)


def compare(metrics: Metrics, baseline: Mapping[str, str] | None = None) -> list[Comparison]:
    """Compare the cases of each benchmark in `metrics`.

    `baseline` names the point that ratios are against, as text (``{"threads": "1"}``; ``first`` is the first value);
    without it, and for a benchmark that has no such point, the benchmark's own is used, else the first value of a
    scaling axis or of the only axis, unless that is what has no name. Raises `UsageError` for a baseline that is in
    none of the sweeps.
    """
    cases = metrics.cases
    comparisons, refused = [], []
    for benchmark in dict.fromkeys(cases["benchmark"]):
        group = cases[cases["benchmark"] == benchmark]
        try:
            comparisons.append(_compare(metrics, str(benchmark), group, baseline))
        except UsageError as error:
            refused.append(error)
            comparisons.append(_compare(metrics, str(benchmark), group, None))
    if refused and len(refused) == len(comparisons):
        raise refused[0]
    return comparisons


def _compare(metrics: Metrics, benchmark: str, cases: pd.DataFrame, baseline: Mapping[str, str] | None) -> Comparison:
    names = [name for name in metrics.parameters if name in cases and cases[name].notna().any()]
    identity = [name for name in ("run", "site") if cases[name].nunique() > 1]
    axes = tuple(identity + [name for name in names if cases[name].nunique(dropna=False) > 1])
    fixed = {name: _clean(cases[name].iloc[0]) for name in names if name not in axes}
    measured = _measure(metrics, cases)
    wanted = [name for name in metrics.headline.get(benchmark, ()) if any(name in row for row in measured.values())]
    columns = tuple(wanted or [name for name in _FALLBACK if any(name in row for row in measured.values())][:3])
    points = []
    for point, members in _points(cases, axes):
        keys = tuple((str(run), str(case)) for run, case in zip(members["run"], members["case"], strict=True))
        counted = [key for key, state in zip(keys, members["state"], strict=True) if state in COUNTED]
        spreads = {name: _spread([measured[key][name] for key in counted if name in measured[key]]) for name in columns}
        points.append(Row(point, keys, len(counted), spreads))
    chosen = _baseline(axes, points, baseline, metrics.baseline.get(benchmark, {}))
    own = {source for source, key in metrics.owners().items() if key in measured}
    steps = metrics.steps[metrics.steps["source"].isin(own)]
    warm = set(steps.loc[~steps["steady"], "step"]) - set(steps.loc[steps["steady"], "step"])
    title = next((str(run.get("title", "")) for run in metrics.runs.values() if run.get("benchmark") == benchmark), "")
    return Comparison(
        benchmark,
        shown(title or benchmark or "Logs", 200),
        axes,
        fixed,
        columns,
        chosen,
        tuple(_with_ratios(points, axes, columns, chosen)),
        tuple(sorted(int(step) for step in warm if math.isfinite(step))),
        _units(metrics, benchmark),
    )


def _points(cases: pd.DataFrame, axes: Sequence[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Group cases by their values on the axes, in order: numbers by size, then words."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, values in enumerate(zip(*(cases[axis] for axis in axes), strict=True) if axes else [()] * len(cases)):
        groups.setdefault(tuple(_clean(value) for value in values), []).append(position)
    ordered = sorted(groups, key=lambda values: [order(value) for value in values])
    return [(dict(zip(axes, values, strict=True)), cases.iloc[groups[values]]) for values in ordered]


def order(value: object) -> tuple[int, float, str]:
    """Sort key of an axis value: numbers first, by size; then text; unknown last."""
    if value is None:
        return (2, 0.0, "")
    if isinstance(value, int | float):
        return (0, value, "")
    return (1, 0.0, str(value))


def _clean(value: Any) -> Any:
    """Turn a table's value into a plain Python one; a missing one into None."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return int(value) if value.is_integer() else value
    return value


@dataclass(frozen=True)
class _Measured:
    """One metric of one case."""

    mean: float
    std: float
    steps: int
    source: str


def _measure(metrics: Metrics, cases: pd.DataFrame) -> dict[tuple[str, str], dict[str, _Measured]]:
    """Reduce every case to one value a metric."""
    case_of = metrics.owners()
    keys = {(str(run), str(case)) for run, case in zip(cases["run"], cases["case"], strict=True)}
    measured: dict[tuple[str, str], dict[str, _Measured]] = {key: {} for key in keys}
    columns = [name for name in COLUMNS if name in metrics.steps]
    for source, steps in metrics.steps[metrics.steps["steady"]].groupby("source"):
        key = case_of.get(str(source))
        if key not in measured:
            continue
        for name in columns:
            if (found := _steady(steps, name, str(source))) is not None:
                measured[key].setdefault(name, found)
    _measure_epochs(metrics, case_of, measured)
    # what the program says of itself, then other logs, then what was measured around it all
    rank = {"hpcbench-records": 0, "hpcbench-exit": 2}
    ranked = sorted(rows(metrics.counters), key=lambda row: rank.get(row.format, 1))
    several: dict[tuple[str, str], list[float]] = {}
    for row in ranked:
        # "duration" is an epoch's; what load generators call so is as long as they were told
        if row.name in COLUMNS and row.name != "duration" and math.isfinite(row.value):
            several.setdefault((row.source, row.name), []).append(float(row.value))
    apart = {
        (row.source, row.name)
        for row in ranked
        if any(isinstance(getattr(row, name, None), str) and getattr(row, name) for name in _APART)
    }
    for (source, name), values in several.items():
        key = case_of.get(source)
        # several measurements of different things in one file are no one number of its case
        if key in measured and (len(values) == 1 or (source, name) not in apart):
            std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            measured[key].setdefault(name, _Measured(float(np.mean(values)), std, len(values) - 1, source))
    evals = metrics.evals
    final = evals[(evals["task"] == "validation") & (evals["metric"] == "loss")]
    for row in rows(final):  # in the order of the log: the last one stays
        key = case_of.get(row.source)
        if key in measured:
            measured[key]["validation_loss"] = _Measured(float(row.value), math.nan, 0, row.source)
    return measured


def _measure_epochs(
    metrics: Metrics,
    case_of: Mapping[str, tuple[str, str]],
    measured: dict[tuple[str, str], dict[str, _Measured]],
) -> None:
    """Reduce epochs to a duration and a rate: the first epoch is left out where there are several.

    An epoch lasts as long as its ranks take on average, and its rate is the sum of theirs; both are then averaged over
    epochs.
    """
    owners = [case_of.get(str(source)) for source in metrics.epochs["source"]]
    for key in dict.fromkeys(owners):
        if key not in measured:
            continue
        epochs = metrics.epochs[[owner == key for owner in owners]]
        by_epoch = epochs.groupby("epoch")
        for name, per_epoch in (
            ("duration", by_epoch["duration"].mean()),
            ("tokens_per_second", by_epoch["tokens_per_second"].sum(min_count=1)),
        ):
            values = per_epoch.to_numpy(dtype=float)
            values = values[1:] if len(values) > 1 else values
            values = values[np.isfinite(values)]
            if len(values):
                std = float(values.std(ddof=1)) if len(values) > 1 else math.nan
                found = _Measured(float(values.mean()), std, len(values), str(epochs["source"].iloc[0]))
                measured[key].setdefault(name, found)


def _steady(steps: pd.DataFrame, name: str, source: str) -> _Measured | None:
    """Average a column over steady steps: a rate over time (all the work / all the time), anything else plainly."""
    values = steps[name].to_numpy(dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return None
    mean = float(values[known].mean())
    if COLUMNS[name].unit.endswith("/s"):
        times = steps["step_time"].to_numpy(dtype=float)
        both = known & np.isfinite(times)
        if both.any() and times[both].sum() > 0:
            mean = float((values[both] * times[both]).sum() / times[both].sum())
    std = float(values[known].std(ddof=1)) if known.sum() > 1 else math.nan
    return _Measured(mean, std, int(known.sum()), source)


def _spread(measured: Sequence[_Measured]) -> Spread:
    deviations = [each.std for each in measured if not math.isnan(each.std)]
    return Spread(
        tuple(each.mean for each in measured),
        sum(each.steps for each in measured),
        math.sqrt(sum(std**2 for std in deviations) / len(deviations)) if deviations else math.nan,
        tuple(each.source for each in measured),
    )


def _baseline(
    axes: Sequence[str], points: Sequence[Row], asked: Mapping[str, str] | None, own: Mapping[str, Any]
) -> dict[str, Any]:
    """Choose the value of each baseline axis; ratios are against the row that has it and is else the same."""
    chosen: dict[str, Any] = {}
    if asked:
        for name, text in asked.items():
            if name not in axes:
                raise UsageError(f"--baseline: {name!r} is not an axis of these logs{nearest(name, axes)}")
            values = _values(points, name)
            match = [value for value in values if _is(value, text)] or (values[:1] if text == "first" else [])
            if not match:
                there = ", ".join(dict.fromkeys(shown(str(value)) for value in values))
                raise UsageError(f"--baseline: no case has {name}={text}; there is {there}")
            chosen[name] = match[0]
        return chosen
    for name, value in own.items():
        if name in axes:
            values = _values(points, name)
            chosen[name] = value if value in values else values[0]
    if not chosen and axes:
        scaling = [name for name in axes if name in SCALING]
        # logs that differ in nothing that has a name may be of anything: which is faster says nothing
        natural = scaling[0] if scaling else axes[0] if len(axes) == 1 and axes != ("log",) else None
        if natural is not None:
            chosen[natural] = _values(points, natural)[0]
    return chosen


def _is(value: object, text: str) -> bool:
    """Tell whether `text` is how a person would write `value`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value).lower() == text.lower() if isinstance(value, bool) else str(value) == text


def _values(points: Sequence[Row], axis: str) -> list[Any]:
    """Return the values of an axis in order; the points are in the order of the axes before it first."""
    return sorted((row.point[axis] for row in points), key=order)


def _with_ratios(
    points: Sequence[Row], axes: Sequence[str], metrics: Sequence[str], baseline: Mapping[str, Any]
) -> list[Row]:
    if not metrics or not baseline:
        return list(points)
    metric = metrics[0]
    by_point = {tuple(row.point[axis] for axis in axes): row for row in points}
    result = []
    for row in points:
        base = by_point.get(tuple(baseline.get(axis, row.point[axis]) for axis in axes))
        if base is None or not COLUMNS[metric].is_speed:
            result.append(row)
            continue
        ratio = _ratio(row.metrics[metric], base.metrics[metric], lower_is_better=COLUMNS[metric].better == "lower")
        if ratio is not None and len(baseline) == 1:
            (axis, value), here = next(iter(baseline.items())), row.point[next(iter(baseline))]
            numbers = isinstance(here, int | float) and isinstance(value, int | float)
            if axis in SCALING and numbers and min(here, value) > 0:
                ratio = Ratio(ratio.speedup, ratio.low, ratio.high, ratio.speedup / (here / value))
        result.append(Row(row.point, row.cases, row.completed, row.metrics, ratio, base is row))
    return result


def _ratio(side: Spread, base: Spread, *, lower_is_better: bool) -> Ratio | None:
    """Divide two means; the interval is Fieller's for a ratio of means whose variances differ.

    Fieller, "Some problems in interval estimation", J. R. Stat. Soc. B 16 (1954); degrees of freedom after Welch and
    Satterthwaite. Where the denominator cannot be told from 0 the interval is everything above 0.
    """
    if not 0 < side.mean < math.inf or not 0 < base.mean < math.inf:  # NaN where nothing was measured
        return None
    above, below = (base, side) if lower_is_better else (side, base)
    speedup = above.mean / below.mean
    if side is base or min(len(side.values), len(base.values)) < 2 or not 0 < speedup < math.inf:
        return Ratio(speedup)
    from scipy.stats import t

    # relative variances of the two means, each with its degrees of freedom
    parts = [((each.over_repeats / each.mean) ** 2 / len(each.values), len(each.values) - 1) for each in (above, below)]
    error = sum(part for part, _ in parts)
    if error == 0:
        return Ratio(speedup, speedup, speedup)
    freedom = error**2 / sum(part**2 / count for part, count in parts)
    reach = float(t.ppf(0.5 + _CONFIDENCE / 2, freedom))
    (of_above, _), (of_below, _) = parts
    g = reach**2 * of_below
    if not g < 1:
        return Ratio(speedup, 0.0, math.inf)
    half = reach * math.sqrt((1 - g) * of_above + of_below)
    return Ratio(speedup, speedup * max(0.0, (1 - half) / (1 - g)), speedup * (1 + half) / (1 - g))


def _units(metrics: Metrics, benchmark: str) -> dict[str, str]:
    """Return the units that the benchmark gives its parameters."""
    for run in metrics.runs.values():
        if run.get("benchmark") == benchmark and isinstance(run.get("parameters"), dict):
            found = run["parameters"].items()
            return {name: shown(str(each.get("unit") or ""), 20) for name, each in found if isinstance(each, dict)}
    return {}
