"""One comparison table over a sweep: each point's steady mean, its spread over steps and repeats, and ratios."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.analyse.confounded import computed_on, moved
from hpcbench.analyse.measure import PARTS, Key, Measured, Part, measure
from hpcbench.analyse.paired import paired, questions
from hpcbench.analyse.relayed import without_relayed
from hpcbench.errors import UsageError, nearest
from hpcbench.metrics import COLUMNS, COUNTED, shown

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

# Axes whose value says how many devices share the work: ideal speed-up is proportional to it.
SCALING = frozenset({
    "threads", "cores", "processes", "ranks", "world_size", "gpus", "devices", "nodes", "workers", "ws", "np", "nproc",
    "thread", "nthreads", "num_threads", "omp", "OMP_NUM_THREADS", "omp_num_threads", "core", "ncores", "cpus", "ncpus",
    "procs", "nprocs", "tasks", "ntasks", "gpu", "ngpu", "ngpus", "num_gpus", "GPUs", "node", "nnodes", "num_nodes",
})  # fmt: skip


# What logs that name no benchmark are compared by, best first, and what such a comparison is called.
_SPEEDS = ("tokens_per_second", "samples_per_second", "tokens_per_second_per_device", "step_time")
_HEADLINES: dict[str, tuple[str, ...]] = {
    "training": (
        *_SPEEDS, "mean_samples_per_second", "train_samples_per_second", "duration", "wall_time", "validation_loss",
    ),
    "inference": (
        "output_tokens_per_second", "tokens_per_second", "samples_per_second", "requests_per_second", "ttft_mean",
        "tpot_mean", "latency_mean", "ttft_median", "tpot_median", "latency_median", "total_tokens_per_second",
        "server_latency_mean", "server_ttft_mean", "wall_time",
    ),
    "evaluation": ("wall_time", "accuracy"),
    "system": ("wall_time", "user_time", "max_memory"),
}  # fmt: skip
# What says less: it includes what is not steady. It is compared where there are not three others.
_LESSER = frozenset({"mean_samples_per_second", "train_samples_per_second", "duration", "wall_time", "validation_loss"})
_HEADLINES[""] = tuple(dict.fromkeys(name for names in _HEADLINES.values() for name in names))
_TITLES = {"training": "Training", "inference": "Inference", "evaluation": "Evaluation", "system": "Programs"}
_KINDS = ["", *_TITLES]
_CONFIDENCE = 0.95
# Axes that say how much work a step is: its time alone then says nothing about speed.
_WORK = frozenset({
    "batch", "micro_batch", "total_batch", "batch_size", "bs", "mbs", "gbs", "sequence_length", "seq", "seqlen",
    "input_tokens", "output_tokens", "tokens",
})  # fmt: skip
# Axes whose values are different things to do, not different ways to do one thing.
_TASKS = frozenset({"log", "scenario", "strategy", "task", "test", "part", "block"})


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
    """Speed-up against the baseline (above 1 is better), with its 95 % interval where both sides were repeated.

    `pairs` is the number of questions that both sides were asked, where the interval is over these.
    """

    speedup: float
    low: float = math.nan
    high: float = math.nan
    efficiency: float = math.nan
    pairs: int = 0

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
    """The cases of one benchmark side by side. `metrics[0]` is what ratios are of.

    Logs that hpcbench did not launch name no benchmark: those that tell of one kind of thing (`Kind`) are compared.
    """

    benchmark: str
    title: str
    axes: tuple[str, ...]
    fixed: Mapping[str, Any]
    metrics: tuple[str, ...]
    baseline: Mapping[str, Any]
    rows: tuple[Row, ...]
    warmup: tuple[int, ...] = ()  # the steps that no mean includes
    units: Mapping[str, str] = field(default_factory=dict)
    unmeasured: int = 0  # logs that have no row, because they hold none of the metrics


def compare(metrics: Metrics, baseline: Mapping[str, str] | None = None) -> list[Comparison]:
    """Compare the cases of each benchmark in `metrics`, and those of each kind of which nothing names a benchmark.

    `baseline` names the point that ratios are against, as text (``{"threads": "1"}``; ``first`` is the first value);
    without it, and for a benchmark that has no such point, the benchmark's own is used, else the first value of a
    scaling axis or of the only axis, unless that is what has no name. Raises `UsageError` for a baseline that is in
    none of the sweeps. Times between tokens that a relay made are in no comparison.
    """
    metrics = without_relayed(metrics)
    cases = metrics.cases
    groups: dict[tuple[str, str], list[int]] = {}
    for position, (benchmark, kind) in enumerate(zip(cases["benchmark"], cases["kind"], strict=True)):
        groups.setdefault((str(benchmark), "" if benchmark else str(kind)), []).append(position)
    comparisons, refused = [], []
    for benchmark, kind in sorted(groups, key=lambda key: _KINDS.index(key[1])):
        group = cases.iloc[groups[benchmark, kind]]
        try:
            comparisons.append(_compare(metrics, benchmark, kind, group, baseline))
        except UsageError as error:
            refused.append(error)
            comparisons.append(_compare(metrics, benchmark, kind, group, None))
    if refused and len(refused) == len(comparisons):
        raise refused[0]
    return comparisons


def _compare(
    metrics: Metrics, benchmark: str, kind: str, cases: pd.DataFrame, baseline: Mapping[str, str] | None
) -> Comparison:
    names = [name for name in metrics.parameters if name in cases and cases[name].notna().any()]
    identity = [name for name in ("run", "site") if cases[name].nunique() > 1]
    of_cases = tuple(identity + [name for name in names if cases[name].nunique(dropna=False) > 1])
    fixed = {name: _clean(cases[name].iloc[0]) for name in names if name not in of_cases}
    keys = list(zip(cases["run"].map(str), cases["case"].map(str), strict=True))
    measured = measure(metrics, set(keys))
    columns = _headline(metrics.headline.get(benchmark, ()), kind, measured)
    measured = {
        key: {part: found for part, found in parts.items() if any(name in found for name in columns)}
        for key, parts in measured.items()
    }
    several = {name for parts in measured.values() for part in parts for name, _ in part}
    axes = (*of_cases, *(name for name in PARTS if name in several and name not in of_cases))
    states = dict(zip(keys, cases["state"], strict=True))
    points = []
    for point, members in _points(cases, keys, measured, axes):
        good = [member for member in members if states[member[0]] in COUNTED]
        # of foreign logs that all end with a failure the numbers stand: many a run is measured until its time is up
        counted = [measured[key].get(part, {}) for key, part in (good or members if kind else good)]
        spreads = {name: _spread([found[name] for found in counted if name in found]) for name in columns}
        points.append(Row(point, tuple(key for key, _ in members), len(good), spreads))
    # of logs that only their names tell apart, those without a number say nothing beside the others
    by_name = axes[:1] == ("log",)
    hidden = kind and (by_name or not columns)
    told = [row for row in points if not hidden or any(spread.values for spread in row.metrics.values())]
    chosen = _baseline(axes, told, baseline, _own_baseline(metrics, benchmark))
    if kind and not baseline and columns and not _WORK.isdisjoint(chosen) and not is_rate(columns[0]):
        chosen = {}
    own = {source for source, key in metrics.owners().items() if key in measured}
    steps = metrics.steps[metrics.steps["source"].isin(own)]
    left_out = steps[~steps["steady"]].groupby("source")["step"].agg(frozenset)
    # where logs differ in it, no few words could say it
    warm = left_out.iloc[0] if len(left_out) == steps["source"].nunique() and left_out.nunique() == 1 else ()
    title = next((str(run.get("title", "")) for run in metrics.runs.values() if run.get("benchmark") == benchmark), "")
    return Comparison(
        benchmark,
        shown(title or benchmark or _TITLES[kind], 200),
        axes,
        fixed,
        columns,
        chosen,
        tuple(_with_ratios(metrics, told, axes, columns, chosen)),
        tuple(sorted(int(step) for step in warm if math.isfinite(step))),
        _units(metrics, benchmark),
        len(points) - len(told),
    )


def is_rate(metric: str) -> bool:
    """Tell whether a metric is work over time, which does not depend on how much work there was."""
    return COLUMNS[metric].unit.endswith("/s")


def _headline(
    wanted: Sequence[str], kind: str, measured: Mapping[Key, Mapping[Part, Mapping[str, Measured]]]
) -> tuple[str, ...]:
    """Choose the metrics to compare: those `wanted` that there are, else the three that most cases of a kind have."""
    counts = Counter(name for parts in measured.values() for found in parts.values() for name in found)
    if chosen := tuple(name for name in wanted if counts[name]):
        return chosen
    usual = [name for name in _HEADLINES[kind] if counts[name]]
    most = sorted(usual, key=lambda name: (name in _LESSER, -counts[name], usual.index(name)))[:3]
    return tuple(sorted(most, key=lambda name: (not COLUMNS[name].is_speed, usual.index(name))))


def _points(
    cases: pd.DataFrame,
    keys: Sequence[Key],
    measured: Mapping[Key, Mapping[Part, object]],
    axes: Sequence[str],
) -> list[tuple[dict[str, Any], list[tuple[Key, Part]]]]:
    """Group cases, and their measurements, by the values on the axes, in order: numbers by size, then words."""
    groups: dict[tuple[Any, ...], list[tuple[Key, Part]]] = {}
    own = {axis: cases[axis].tolist() for axis in axes if axis in cases}
    for position, key in enumerate(keys):
        for part in measured[key] or [()]:
            here = {**{axis: _clean(values[position]) for axis, values in own.items()}, **dict(part)}
            groups.setdefault(tuple(here.get(axis) for axis in axes), []).append((key, part))
    ordered = sorted(groups, key=lambda values: [order(value) for value in values])
    return [(dict(zip(axes, values, strict=True)), groups[values]) for values in ordered]


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


def _spread(measured: Sequence[Measured]) -> Spread:
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
    if not points:
        return chosen
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
        for group in _together(points, axes):  # what varies with it has the value that stands beside its own
            if given := [axis for axis in group if axis in chosen]:
                beside = next(row.point for row in points if row.point[given[0]] == chosen[given[0]])
                chosen |= {axis: beside[axis] for axis in group if axis not in chosen}
        return chosen
    for name, value in own.items():
        if name in axes:
            values = _values(points, name)
            chosen[name] = value if value in values else values[0]
    if not chosen and axes:
        groups = _together(points, axes)
        scaling = [group for group in groups if not SCALING.isdisjoint(group)]
        # logs that differ in nothing that has a name may be of anything: which is faster says nothing
        natural = scaling[0] if scaling else groups[0] if len(groups) == 1 and not _TASKS & {*groups[0]} else ()
        if natural:
            first = min(points, key=lambda row: order(row.point[natural[0]])).point
            chosen = {name: first[name] for name in natural}
    return chosen


def _own_baseline(metrics: Metrics, benchmark: str) -> Mapping[str, Any]:
    """Return the baseline that a benchmark names; its first site is the one that was named first."""
    own = metrics.baseline.get(benchmark, {})
    for run in metrics.runs.values():
        sites = run.get("sites")
        if own.get("site") == "first" and run.get("benchmark") == benchmark and isinstance(sites, dict) and sites:
            return {**own, "site": next(iter(sites))}
    return own


def _together(points: Sequence[Row], axes: Sequence[str]) -> list[list[str]]:
    """Group axes whose numbers grow together, one to one: the batch of a device and that of all of them are one axis.

    Two words that change together are two things, and nothing says which of them mattered.
    """
    groups: list[list[str]] = []
    for axis in axes:
        for group in groups:
            pairs = {(row.point[group[0]], row.point[axis]) for row in points}
            if all(isinstance(value, int | float) for pair in pairs for value in pair):
                ordered = sorted(pairs)
                if all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(ordered)):
                    group.append(axis)
                    break
        else:
            groups.append([axis])
    return groups


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
    tables: Metrics, points: Sequence[Row], axes: Sequence[str], metrics: Sequence[str], baseline: Mapping[str, Any]
) -> list[Row]:
    if not metrics or not baseline:
        return list(points)
    metric = metrics[0]
    by_point = {tuple(row.point[axis] for axis in axes): row for row in points}
    where = computed_on(tables)
    scaling = [axis for axis in baseline if axis in SCALING] if len(_together(points, [*baseline])) == 1 else []
    result = []
    for row in points:
        base = by_point.get(tuple(baseline.get(axis, row.point[axis]) for axis in axes))
        unknown = any(row.point[axis] is None for axis in baseline)
        if base is None or unknown or not COLUMNS[metric].is_speed or moved(where, row, base):
            result.append(row)
            continue
        ratio = _ratio(row.metrics[metric], base.metrics[metric], lower_is_better=COLUMNS[metric].better == "lower")
        if ratio is not None and row is not base:
            ratio = _paired(tables, row, base, metric) or ratio
        if ratio is not None and scaling:
            value, here = baseline[scaling[0]], row.point[scaling[0]]
            numbers = isinstance(here, int | float) and isinstance(value, int | float)
            if numbers and min(here, value) > 0:
                devices = 1 if metric.endswith("_per_device") else here / value
                ratio = Ratio(ratio.speedup, ratio.low, ratio.high, ratio.speedup / devices)
        result.append(Row(row.point, row.cases, row.completed, row.metrics, ratio, base is row))
    return result


def _paired(metrics: Metrics, row: Row, base: Row, metric: str) -> Ratio | None:
    """Compare two points by the questions that both answered in cases that count; None where there are none."""
    states = metrics.cases.set_index(["run", "case"])["state"]
    good = set(states.index[states.isin(COUNTED)])
    of_row, of_base = (questions(metrics, good.intersection(each.cases) or each.cases, metric) for each in (row, base))
    found = None if of_row is None or of_base is None else paired(of_row, of_base)
    return None if found is None else Ratio(found[0], found[1], found[2], pairs=found[3])


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
