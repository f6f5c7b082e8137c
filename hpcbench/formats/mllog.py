"""MLPerf training: the ``:::MLLOG`` lines of its logging library, those of MLPerf inference left aside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from hpcbench.formats import PARAMETERS, Each, Format
from hpcbench.metrics import shown
from hpcbench.rows import Rows, Tables, from_records, joined

_STATS = {
    "throughput": "samples_per_second", "train_loss": "loss", "loss": "loss", "reduced_train_loss": "loss",
    "train_step_time": "step_time", "step_time": "step_time", "lr": "lr", "learning_rate": "lr",
}  # fmt: skip
_PARAMETERS = {
    "global_batch_size": "batch", "local_batch_size": "micro_batch", "max_sequence_length": "sequence_length",
    "submission_benchmark": "model", "submission_platform": "device",
}  # fmt: skip


def _read(line: bytes) -> Sequence[tuple[str, dict[str, Any]]] | None:
    """Read one line: scores, tracked statistics, and where epochs and the run begin and end."""
    row = json.loads(line.partition(b":::MLLOG ")[2])
    key, value, metadata = row["key"], row["value"], row["metadata"]
    if not isinstance(metadata, dict):
        return None
    if "is_error" in metadata or row.get("namespace") == "mlperf::logging":  # MLPerf inference
        return []
    time = {"time": _number(row["time_ms"]) / 1000}
    if not math.isfinite(time["time"]):
        return None
    place = _place(metadata)
    if key in _PARAMETERS:
        said = shown(value, 200) if isinstance(value, str) else _number(value)
        # what nobody filled in names no device
        return [] if isinstance(said, str) and "PLACEHOLDER" in said else [(PARAMETERS, {_PARAMETERS[key]: said})]
    if key == "eval_accuracy":  # of a benchmark that is judged by its loss it is that
        return [("evals", {"task": "validation", "metric": "eval_accuracy", "value": _number(value), **place, **time})]
    if key == "tracked_stats" and isinstance(value, dict):
        stats = {_STATS[name]: _number(each) for name, each in value.items() if name in _STATS}
        return [("steps", {**place, **stats, **time})] if stats else []
    if key in ("epoch_start", "epoch_stop"):
        epoch = place.get("epoch", _number(value) if value is not None else None)
        return [("epochs", {"epoch": epoch, "_key": key, **time})]
    if key in ("run_start", "run_stop"):
        kind = "started" if key == "run_start" else "finished"
        status = metadata.get("status")
        return [("events", {"kind": kind, "message": f"{key} {status}" if isinstance(status, str) else key, **time})]
    return None if key == "tracked_stats" else []


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)


def _place(metadata: dict[str, Any]) -> dict[str, float]:
    """Say where in training a line is. Some programs count samples under the name of the epoch."""
    names = {"epoch_num": "epoch", "step": "step", "step_num": "step", "samples_count": "samples"}
    found = {column: _number(metadata[name]) for name, column in names.items() if metadata.get(name) is not None}
    if found.get("epoch") == found.get("samples"):
        found.pop("epoch", None)
    return found


def _finish(tables: Tables) -> None:
    """Make epochs of their beginnings and ends, and of a run that succeeded its time to train."""
    marks = tables.pop("epochs", None)
    if marks is not None:
        begun: dict[tuple[Any, ...], float] = {}
        found: list[tuple[str, int, dict[str, Any]]] = []
        for line, row in marks.records():
            where: dict[str, Any] = {key: row[key] for key in ("epoch", "rank") if key in row}
            which = tuple(where.items())
            if row["_key"] == "epoch_start":
                begun[which] = row["time"]
            elif which in begun:
                found.append(("epochs", line, {**where, "duration": _between(begun.pop(which), row["time"])}))
        tables.update(from_records(found))
    events = tables.get("events")
    started = None
    for line, row in events.records() if events is not None else ():
        if row["kind"] == "started":
            started = row["time"]
        elif started is not None and row["message"] == "run_stop success":
            counter: dict[str, list[Any]] = {
                "name": ["time_to_train"],
                "value": [_between(started, row["time"])],
                "unit": ["s"],
            }
            parts = [tables["counters"]] if "counters" in tables else []
            tables["counters"] = joined([*parts, Rows([line], counter)])
            started = None


def _between(start: float, stop: float) -> float:
    return round(stop - start, 3)  # both are printed in milliseconds


FORMATS = (
    Format(
        name="mllog",
        kind="training",
        title="MLPerf training, :::MLLOG",
        example=':::MLLOG {"namespace": "", "time_ms": 1700000000123, "event_type": "POINT_IN_TIME", '
        '"key": "eval_accuracy", "value": 0.7125, "metadata": {"file": "train.py", "lineno": 10, "epoch_num": 3}}',
        parts=(Each(":::MLLOG {", _read),),
        finish=_finish,
    ),
)
