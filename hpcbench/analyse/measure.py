"""What each case measured: one value a metric, reduced from steps, epochs, counters and evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.metrics import COLUMNS, rows

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

Key = tuple[str, str]  # a run and a case of it
# The measurement of a case that a value is of, as columns of counters and their values; most cases make but one.
Part = tuple[tuple[str, Any], ...]
# Columns of counters that tell the measurements of one log apart.
PARTS = (
    "endpoint", "model", "backend", "scenario", "strategy", "concurrency", "request_rate", "threads", "gpu_layers",
    "prompt_batch", "test", "batch_size", "task", "part", "block",
)  # fmt: skip
# Times of a request. What the server says it took is not what a client waited.
_TIMES = ("ttft", "tpot", "latency", "server_ttft", "server_latency")
_SINCE_START = frozenset({"mean_samples_per_second"})  # a mean already: its last value is that of the run
_OF_TRAINING = frozenset({"training", "train", "validation", "test", "prediction"})
_SCORES = ("acc", "accuracy", "exact_match", "exact_match,strict-match")
_TIMES_OF_A_PROGRAM = frozenset({"wall_time", "user_time", "system_time"})
_OF_A_PROGRAM = _TIMES_OF_A_PROGRAM | {"max_memory"}
# What the program says of itself comes first, then other logs, then what was measured around it all.
_RANKS = {"hpcbench-records": 0, "hpcbench-exit": 2}


@dataclass(frozen=True)
class Measured:
    """One metric of one case."""

    mean: float
    std: float
    steps: int
    source: str


def measure(metrics: Metrics, keys: set[Key]) -> dict[Key, dict[Part, dict[str, Measured]]]:
    """Reduce cases to one value a metric, for each of their measurements."""
    case_of = {source: key for source, key in metrics.owners().items() if key in keys}
    measured: dict[Key, dict[Part, dict[str, Measured]]] = {key: {} for key in keys}
    columns = [name for name in COLUMNS if name in metrics.steps]
    for source, steps in metrics.steps[metrics.steps["steady"]].groupby("source"):
        if (key := case_of.get(str(source))) is not None:
            for name in columns:
                if (found := _over_steps(steps, name, str(source))) is not None:
                    measured[key].setdefault((), {}).setdefault(name, found)
    _measure_epochs(metrics, case_of, measured)
    _measure_counters(metrics, case_of, measured)
    _measure_requests(metrics, case_of, measured)
    _measure_evals(metrics, case_of, measured)
    return measured


def _over_steps(steps: pd.DataFrame, name: str, source: str) -> Measured | None:
    """Average a column over steady steps: a rate over time (all the work / all the time), anything else plainly."""
    values = steps[name].to_numpy(dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return None
    if name in _SINCE_START:
        return Measured(float(values[known][-1]), math.nan, 0, source)
    mean = float(values[known].mean())
    if COLUMNS[name].unit.endswith("/s"):
        times = steps["step_time"].to_numpy(dtype=float)
        both = known & np.isfinite(times)
        if both.any() and times[both].sum() > 0:
            mean = float((values[both] * times[both]).sum() / times[both].sum())
        elif (values[known] > 0).all():
            work = _work(steps["step"].to_numpy(dtype=float)[known])
            mean = float(work.sum() / (work / values[known]).sum())
    return Measured(mean, _deviation(values[known]), int(known.sum()), source)


def _work(step: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many steps each line of a log stands for: those since the line before; as many for the first."""
    if len(step) < 2 or not (np.diff(step) > 0).all():
        return np.ones(len(step))
    return np.concatenate([np.diff(step)[:1], np.diff(step)])


def _deviation(values: NDArray[np.float64]) -> float:
    """Return the standard deviation (n - 1); equal values have none, though their mean is rounded."""
    if len(values) < 2:
        return math.nan
    return 0.0 if values.min() == values.max() else float(values.std(ddof=1))


def _measure_epochs(
    metrics: Metrics, case_of: Mapping[str, Key], measured: Mapping[Key, dict[Part, dict[str, Measured]]]
) -> None:
    """Reduce epochs to a duration and a rate: the first epoch is left out where there are several.

    An epoch lasts as long as its ranks take on average, and its rate is the sum of theirs; both are then averaged over
    epochs.
    """
    sources = metrics.epochs["source"].to_numpy()
    positions: dict[Key, list[int]] = {}
    for position, source in enumerate(sources.tolist()):
        if (key := case_of.get(source)) is not None:
            positions.setdefault(key, []).append(position)
    for key, own in positions.items():
        by_epoch = metrics.epochs.iloc[own].groupby("epoch")
        whole = by_epoch.size() == by_epoch.size().max()  # of an epoch that lacks a rank nobody knows the sum
        for name, per_epoch in (
            ("duration", by_epoch["duration"].mean()),
            ("tokens_per_second", by_epoch["tokens_per_second"].sum(min_count=1)),
        ):
            values = np.where(whole, per_epoch, np.nan)
            values = values[1:] if len(values) > 1 else values
            values = values[np.isfinite(values)]
            if len(values):
                found = Measured(float(values.mean()), _deviation(values), len(values), str(sources[own[0]]))
                measured[key].setdefault((), {}).setdefault(name, found)


def _measure_counters(
    metrics: Metrics, case_of: Mapping[str, Key], measured: Mapping[Key, dict[Part, dict[str, Measured]]]
) -> None:
    """Take the counters that are metrics; a log that holds several measurements gives each of them."""
    # "duration" is an epoch's; what load generators call so is as long as they were told
    names = frozenset(COLUMNS) - {"duration"}
    counters = metrics.counters[metrics.counters["name"].isin(names) & np.isfinite(metrics.counters["value"])]
    counters = counters[~(counters["name"].isin(_TIMES_OF_A_PROGRAM) & counters["source"].isin(_resumed(metrics)))]
    columns = [name for name in PARTS if name in counters]
    requests = metrics.requests["source"].value_counts().to_dict()
    found: dict[Key, list[tuple[Any, Part]]] = {}
    for row in sorted(rows(counters), key=lambda row: _RANKS.get(row.format, 1)):
        if (key := case_of.get(row.source)) is not None:
            part = tuple((name, value) for name in columns if (value := _known(getattr(row, name))) is not None)
            found.setdefault(key, []).append((row, part))
    for key, of_case in found.items():
        there: dict[str, set[Any]] = {}
        found_here: dict[Part, dict[str, Measured]] = {}
        for _, part in of_case:
            for name, value in part:
                there.setdefault(name, set()).add(value)
        several: dict[tuple[Part, str, str, str], list[float]] = {}
        for row, part in of_case:
            varying = tuple((name, value) for name, value in part if len(there[name]) > 1)
            several.setdefault((varying, row.source, row.name, row.format), []).append(float(row.value))
        for (part, source, name, _), values in several.items():
            if len(values) > 1 and name in _OF_A_PROGRAM and len(values) != requests.get(source, 0):
                if not measured[key]:  # times of several programs, one after another
                    for number, value in enumerate(values, 1):
                        one = Measured(value, math.nan, 0, source)
                        found_here.setdefault((*part, ("part", number)), {}).setdefault(name, one)
                continue
            value = Measured(float(np.mean(values)), _deviation(np.array(values)), len(values) - 1, source)
            found_here.setdefault(part, {}).setdefault(name, value)
        for part, of_part in found_here.items():
            measured[key][part] = {**of_part, **measured[key].get(part, {})}


def _resumed(metrics: Metrics) -> set[str]:
    """Return the logs of cases whose answers are in part of attempts before: the time of the last is not theirs."""
    owners, counters = metrics.owners(), metrics.counters
    before = counters[(counters["name"] == "answers_before") & (counters["value"] > 0)]
    cases = {owners[source] for source in before["source"]}
    return {source for source, case in owners.items() if case in cases}


def _measure_requests(
    metrics: Metrics, case_of: Mapping[str, Key], measured: Mapping[Key, dict[Part, dict[str, Measured]]]
) -> None:
    """Reduce the requests that succeeded to the mean and median of each time, and the tokens of all of them a second.

    What a load generator says of its own requests comes first. Its spread is over requests.
    """
    requests = metrics.requests[(metrics.requests["error"] == "") & (metrics.requests["phase"] != "warm-up")]
    for source, own in requests.groupby("source", sort=False):
        key = case_of.get(str(source))
        if key is None or any(measured[key]):  # of several measurements nothing says which a request is of
            continue
        found = measured[key].setdefault((), {})
        for name in [each for each in _TIMES if each in own]:
            values = own[name].to_numpy(dtype=float)
            values = values[np.isfinite(values)]
            if len(values):
                mean = Measured(float(values.mean()), _deviation(values), len(values), str(source))
                found.setdefault(f"{name}_mean", mean)
                median = Measured(float(np.median(values)), math.nan, len(values), str(source))
                found.setdefault(f"{name}_median", median)
        counted = own[["started", "finished", "output_tokens"]].dropna().to_numpy(dtype=float)
        if len(counted) and (duration := counted[:, 1].max() - counted[:, 0].min()) > 0:
            rate = Measured(float(counted[:, 2].sum() / duration), math.nan, len(counted), str(source))
            found.setdefault("output_tokens_per_second", rate)


def _measure_evals(
    metrics: Metrics, case_of: Mapping[str, Key], measured: Mapping[Key, dict[Part, dict[str, Measured]]]
) -> None:
    """Take the last validation loss, and the accuracy of each task: over its subjects, questions weigh the same."""
    evals = metrics.evals
    final = evals[(evals["task"] == "validation") & (evals["metric"] == "loss")]
    for row in rows(final):  # in the order of the log: the last one stays
        if (key := case_of.get(row.source)) is not None:
            found = Measured(float(row.value), math.nan, 0, row.source)
            measured[key].setdefault((), {})["validation_loss"] = found
    scores = evals[evals["metric"].isin(_SCORES) & ~evals["task"].isin(_OF_TRAINING)]
    for source, own in scores.groupby("source", sort=False):
        if (key := case_of.get(str(source))) is None:
            continue
        for task, of_task in own.groupby("task", sort=False):
            whole = of_task[of_task["subject"] == ""]
            chosen = of_task if whole.empty else whole.tail(1)
            values, counts = chosen["value"].to_numpy(dtype=float), chosen["count"].to_numpy(dtype=float)
            mean = float(np.average(values, weights=counts if np.isfinite(counts).all() and counts.sum() > 0 else None))
            part = (("task", str(task)),) if own["task"].nunique() > 1 else ()
            found = Measured(mean, math.nan, 0, str(source))
            measured[key].setdefault(part, {}).setdefault("accuracy", found)


def _known(value: Any) -> Any:
    """Return a value that tells measurements apart, or None."""
    if isinstance(value, str):
        return value or None
    if not isinstance(value, int | float) or math.isnan(value):
        return None
    return int(value) if float(value).is_integer() else float(value)
