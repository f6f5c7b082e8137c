"""PyTorch Lightning: the metrics.csv of its CSVLogger, a sparse table of whatever a model logs."""

from __future__ import annotations

import csv
import re
from typing import Any

from hpcbench.formats import Format, Reading, Record

_NAME = re.compile(r"[A-Za-z_][\w./@ :-]{0,100}")
_LEARNING_RATE = re.compile(r"(?:lr|learning_rate)(?:-[\w-]+(?:/pg\d+)?)?")
_SCORE = re.compile(
    r"(?P<task>val|valid|validation|test)[_/ ](?P<metric>.+?)(?:_epoch|_step)?(?:/dataloader_idx_(?P<set>\d+))?"
)
_TRAINING = re.compile(r"train(?:ing)?[_/ ]")
_TASKS = {"val": "validation", "valid": "validation"}
_MAX_COLUMNS = 1000


def _header(line: str) -> list[str] | None:
    """Return the columns' names if a line is a header of this logger: names only, `epoch` and `step` among them."""
    if "step" not in line or "epoch" not in line:
        return None
    names = _cells(line)
    known = {"epoch", "step"} < set(names) and len(set(names)) == len(names) <= _MAX_COLUMNS
    return names if known and all(_NAME.fullmatch(name) for name in names) else None


def _cells(line: str) -> list[str]:
    try:
        return next(csv.reader([line])) if '"' in line else line.split(",")
    except csv.Error:  # a field without end
        return []


def _read(data: bytes, _: str) -> Reading:
    """Read the rows; a new header may stand between them. A last line without an end may be cut: it is not read."""
    text = data.decode("utf-8", errors="replace").removeprefix("\ufeff").replace("\r\n", "\n")
    lines = text.split("\n")
    names = _header(lines[0])
    if names is None:
        return [], 0
    records: list[Record] = []
    unread = int(bool(lines[-1]))
    for number, line in enumerate(lines[1:-1], 2):
        if not line:
            continue
        cells = _cells(line)
        try:
            if len(cells) != len(names):
                raise ValueError(line)  # noqa: TRY301
            values = {name: float(cell) for name, cell in zip(names, cells, strict=True) if cell}
        except ValueError:
            again = _header(line)
            names = again or names
            unread += again is None
            continue
        records += [Record(table, number, row) for table, row in _rows(values)]
    return records, unread


def _rows(values: dict[str, float]) -> list[tuple[str, dict[str, Any]]]:
    """Sort the values of one row: scores, means of an epoch, and what belongs to a step."""
    place: dict[str, Any] = {key: values[key] for key in ("step", "epoch") if key in values}
    tables: dict[str, dict[str, Any]] = {"epochs": {}, "steps": {}}
    found: list[tuple[str, dict[str, Any]]] = []
    for name, value in values.items():
        if name in ("step", "epoch"):
            continue
        if match := _SCORE.fullmatch(name):
            task = _TASKS.get(match["task"], match["task"])
            score = {"task": task, "metric": match["metric"], "value": value}
            found.append(("evals", {**place, **score, **({"subject": match["set"]} if match["set"] else {})}))
            continue
        table = "epochs" if name.endswith("_epoch") else "steps"
        tables[table].setdefault(_column(name), value)
    return [(table, {**place, **row}) for table, row in tables.items() if row] + found


def _column(name: str) -> str:
    """Name the column that a metric of training fills: ``train/loss_step`` is `loss`, ``lr-Adam`` is `lr`."""
    plain = _TRAINING.sub("", name, count=1).removesuffix("_step").removesuffix("_epoch")
    if _LEARNING_RATE.fullmatch(plain):
        return "lr"
    column = re.sub(r"\W+", "_", plain).strip("_").lower()
    return column if column not in _OTHERS else f"logged_{column}"


_OTHERS = frozenset({"", "step", "epoch", "rank", "time", "attempt", "warmup", "line", "source"})
FORMATS = (
    Format(
        name="lightning-csv",
        kind="training",
        title="PyTorch Lightning CSVLogger, metrics.csv",
        example="epoch,step,train_loss,val_loss\n0,49,2.5,\n0,49,,2.75",
        sniff=(",step",),  # a metric or the epoch stands before it
        document=_read,
    ),
)
