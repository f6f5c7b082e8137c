"""What parsing gives: one table a kind of record, and the unit, direction and label of every column."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Column:
    """A measured column: SI unit, which direction is better (None: neither), and how people name it."""

    label: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None

    @property
    def is_speed(self) -> bool:
        """Whether a ratio of it is a speed-up: a time or a rate, not a loss or a size."""
        return self.better is not None and (self.unit == "s" or self.unit.endswith("/s"))


# One definition a column, for all tables. Formats convert to these units when they read.
COLUMNS: dict[str, Column] = {
    "step_time": Column("step time", "s", "lower"),
    "tokens_per_second": Column("tokens per second", "tokens/s", "higher"),
    "samples_per_second": Column("samples per second", "samples/s", "higher"),
    "loss": Column("training loss", "", "lower"),
    "lr": Column("learning rate"),
    "grad_norm": Column("gradient norm"),
    "mfu": Column("share of peak FLOP/s", "", "higher"),
    "duration": Column("duration", "s", "lower"),
    "validation_loss": Column("validation loss", "", "lower"),
    "tokens_per_second_per_device": Column("tokens per second and device", "tokens/s", "higher"),
    "flops_per_second_per_device": Column("FLOP per second and device", "FLOP/s", "higher"),
    "mean_samples_per_second": Column("samples per second since the start", "samples/s", "higher"),
    "train_samples_per_second": Column("samples per second of the whole training", "samples/s", "higher"),
    "requests_per_second": Column("requests per second", "requests/s", "higher"),
    "output_tokens_per_second": Column("output tokens per second", "tokens/s", "higher"),
    "total_tokens_per_second": Column("tokens per second, input and output", "tokens/s", "higher"),
    "steady_tokens_per_second": Column("output tokens per second, steady", "tokens/s", "higher"),
    "questions_per_second": Column("questions per second", "questions/s", "higher"),
    "goodput": Column("requests per second that keep the limits", "requests/s", "higher"),
    "good_share": Column("share of requests that keep the limits", "", "higher"),
    "success_rate": Column("share of requests that succeeded", "", "higher"),
    "cold_start": Column("time until the model was loaded", "s", "lower"),
    "exact_match": Column("exact match", "", "higher"),
    "f1": Column("F1", "", "higher"),
    "contains": Column("share of answers that hold the right one", "", "higher"),
    "accuracy": Column("accuracy", "", "higher"),
    "wall_time": Column("wall time", "s", "lower"),
    "user_time": Column("CPU time, user", "s"),
    "system_time": Column("CPU time, system", "s"),
    "max_memory": Column("peak memory", "B", "lower"),
    "processes_memory": Column("peak memory of all processes", "B", "lower"),
    "max_device_memory": Column("peak device memory", "B", "lower"),
}

# Times of requests, each as a mean and as other points of its distribution.
_TIMES = {
    "ttft": "time to first token",
    "ttfo": "time to first token that is not reasoning",
    "tpot": "time per output token",
    "latency": "latency",
    "latency_from_schedule": "latency from schedule",
    "chunk_gap": "time between chunks",
    "server_ttft": "time to first token as the server says",
    "server_latency": "latency as the server says",
}
_POINTS = {
    "mean": "mean", "median": "median", "p90": "90th percentile", "p95": "95th percentile", "p99": "99th percentile",
    "min": "least", "max": "most",
}  # fmt: skip
COLUMNS |= {
    f"{name}_{point}": Column(f"{label}, {words}", "s", "lower")
    for name, label in _TIMES.items()
    for point, words in _POINTS.items()
}

# Columns that a table always has, in this order; a format may add others.
TABLES: dict[str, tuple[str, ...]] = {
    "sources": (
        "path", "format", "bytes", "lines", "records", "unread", "sha256",
        "run", "case", "site", "benchmark", "repeat", "parameters_from", "copy_of",
    ),
    "cases": ("run", "case", "site", "benchmark", "kind", "repeat", "state", "reason", "parameters_from"),
    "steps": (
        "step", "epoch", "rank", "time", "loss", "lr", "grad_norm", "step_time",
        "samples_per_second", "tokens_per_second", "mfu", "attempt", "warmup", "steady",
    ),
    "epochs": ("epoch", "rank", "duration", "tokens_per_second", "validation_loss", "bleu"),
    "requests": (
        "scheduled", "started", "first_token", "last_token", "finished", "ttft", "tpot", "latency",
        "input_tokens", "output_tokens", "status", "error", "retries", "phase",
    ),
    "answers": (
        "task", "subject", "number", "question", "prompt", "choice", "answer", "correct", "score_a", "score_b",
        "score_c", "score_d", "tokens", "duration", "process", "shots", "cut", "protocol",
    ),
    "evals": ("task", "subject", "metric", "value", "count", "correct", "step"),
    "counters": ("name", "value", "unit", "format"),
    "events": ("time", "kind", "message"),
    "samples": ("time", "device", "utilization", "memory_used", "memory_total", "power", "temperature"),
    "jobs": (
        "job", "name", "state", "exit_status", "signal", "elapsed", "submitted", "started", "ended", "queue", "nodes",
        "cores", "max_memory",
    ),
}  # fmt: skip

TEXT = frozenset({
    "path", "format", "sha256", "run", "case", "site", "benchmark", "parameters_from", "copy_of", "state", "reason",
    "task", "subject", "metric", "name", "unit", "kind", "message", "status", "error", "source",
    "device", "job", "queue", "phase", "prompt", "question", "finish_reason", "model", "text", "reasoning",
    "tokens_counted_by", "ran_on", "choice", "answer", "protocol",
})  # fmt: skip

# Names that a parameter cannot have, because a table has a column of that name.
RESERVED = frozenset({
    *TABLES["sources"], *TABLES["cases"], "source", "line", "started", "ended",
    "ran_on", "cases", "speedup", "speedup_low", "speedup_high", "slowdown", "efficiency",
})  # fmt: skip


# Kinds of events after which a program does nothing more.
FATAL = frozenset({
    "out_of_memory", "time_limit", "traceback", "assertion", "cancelled", "killed", "aborted", "node_failure",
    "preempted", "nccl_error", "nccl_timeout", "cuda_error", "segmentation_fault", "bus_error", "illegal_instruction",
    "appliance_error",
})  # fmt: skip

# Kinds of events that say how far a number can be trusted: the reasons why it is not valid come first.
CAUTIONS = ("invalid", "valid", "relay", "field_dropped", "note")

# States whose numbers count: foreign logs do not say how they ended (the empty state), so they count as they are.
COUNTED = ("completed", "")


@dataclass(frozen=True)
class Metrics:
    """The tables of records. Every row names its `source` (a path of `sources`) and `line`, counted from 1.

    `cases` and `sources` also hold one column a parameter; `parameters` names those columns. `runs` holds each
    run's ``run.json`` as read. By benchmark: `headline` names the metrics to compare, `baseline` the point that ratios
    are against, `invariant` the parameters that must not change what is computed; a benchmark whose logs do not say is
    in none of them. Missing numbers are NaN.
    """

    sources: pd.DataFrame
    cases: pd.DataFrame
    steps: pd.DataFrame
    epochs: pd.DataFrame
    requests: pd.DataFrame
    answers: pd.DataFrame
    evals: pd.DataFrame
    counters: pd.DataFrame
    events: pd.DataFrame
    samples: pd.DataFrame
    jobs: pd.DataFrame
    parameters: tuple[str, ...] = ()
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    headline: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    baseline: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    invariant: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return the tables by name."""
        return {name: getattr(self, name) for name in TABLES}

    def owners(self) -> dict[str, tuple[str, str]]:
        """Return the run and case that each source belongs to, by its path."""
        columns = (self.sources["path"], self.sources["run"], self.sources["case"])
        return {str(path): (str(run), str(case)) for path, run, case in zip(*columns, strict=True)}

    def by_case(self, table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
        """Return the rows of a table by run and case, in their order."""
        owners = self.owners()
        found: dict[tuple[str, str], list[int]] = {}
        for source, positions in table.groupby("source", sort=False).indices.items():
            if str(source) in owners:
                found.setdefault(owners[str(source)], []).extend(map(int, positions))
        return {case: table.iloc[sorted(positions)] for case, positions in found.items()}

    def write(self, folder: Path, *, csv: bool = False) -> list[Path]:
        """Write each table that has rows as Parquet (or CSV), each whole or not at all; returns the files.

        Of an earlier `write` nothing stays that these tables do not have.
        """
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for name, table in self.tables().items():
            file, other = (
                folder / f"{name}.{ending}" for ending in (("csv", "parquet") if csv else ("parquet", "csv"))
            )
            other.unlink(missing_ok=True)
            if table.empty:
                file.unlink(missing_ok=True)
                continue
            aside = file.with_name(f".{file.name}.{os.getpid()}")
            try:
                if csv:
                    table.to_csv(aside, index=False)
                else:
                    _uniform(table, self.parameters).to_parquet(aside, index=False)
                aside.replace(file)
            finally:
                aside.unlink(missing_ok=True)
            files.append(file)
        return files


def _uniform(table: pd.DataFrame, parameters: Iterable[str]) -> pd.DataFrame:
    """Write parameters whose values are of several types (``4`` and ``auto``) as text: a Parquet column has one."""
    mixed = [name for name in parameters if name in table and table[name].dropna().map(type).nunique() > 1]
    texts = {name: table[name].map(str, na_action="ignore") for name in mixed}
    return table.assign(**texts)


def rows(table: pd.DataFrame) -> Iterator[Any]:
    """Yield a table's rows, columns as attributes."""
    return iter(table.itertuples(index=False))


_SCALES: dict[str, tuple[tuple[float, str], ...]] = {  # SI unit → the units people read, largest first
    "s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "B": ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"), (1, "B")),
}


def scale(values: Iterable[float], unit: str) -> tuple[float, str]:
    """Choose one unit to show all `values` in: the factor to divide by, and its name."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    scales = _SCALES.get(unit, ((1, unit),))
    return next((each for each in scales if largest >= each[0]), scales[0])


def significant(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits and never an exponent; an unknown one is ``–``."""
    if math.isnan(value):
        return "–"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    if decimals > 15:
        return f"{value:.{digits - 1}e}"
    return f"{round(value, decimals):,.{max(0, decimals)}f}"


def shown(text: str, length: int = 80) -> str:
    """Write text from outside on one line, without control characters; of a longer one both ends."""
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= length else f"{line[: length // 2]}…{line[-length // 2 :]}"


def quantity(value: float, unit: str, digits: int = 4) -> str:
    """Write a number with its unit: ``3.273 s``, ``12.40 ms``, ``1.530 GiB``."""
    factor, name = scale([value], unit)
    return f"{significant(value / factor, digits)} {'' if math.isnan(value) else name}".strip()


def plural(count: int, noun: str) -> str:
    """Write ``1 case``, ``2 cases``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
