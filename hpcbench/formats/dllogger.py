"""NVIDIA DLLogger, which the programs of DeepLearningExamples log with: its JSON lines and its lines for people."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcbench.formats import FACTORS, PARAMETERS, POWERS, Each, Format, in_si, stamp
from hpcbench.rows import Tables

_COLUMNS = {  # as the programs call them, without "train" → column
    "throughput": "samples_per_second", "total_ips": "samples_per_second",
    "learning_rate": "lr", "lr": "lr", "lrate": "lr", "iter_time": "step_time", "step_time": "step_time",
    "total_loss": "loss", "average_loss": "loss", "epoch_time": "duration", "time": "duration",
}  # fmt: skip
# as the programs call what they were told → parameter; the batch is that of one device
_PARAMETERS = {
    "batch_size": "micro_batch", "train_batch_size": "micro_batch", "batch_size_per_gpu": "micro_batch",
    "batch_size_per_pu": "micro_batch", "global_batch_size": "batch", "max_seq_length": "sequence_length",
}  # fmt: skip
_RATES = frozenset({"seq/s", "sequences/s", "samples/s", "img/s", "images/s", "sentences/s", "items/s"})
_TRAIN = re.compile(r"^train(?:ing)?[._ ]|[._]train(?:ing)?$")
_SCORE = re.compile(r"^(?:val|valid|validation|test|eval)[._ ]")
_PLAIN = re.compile(r"DLL (?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) - (?P<rest>.*)", re.DOTALL)
_STEP = re.compile(
    r"(?P<tuple>[(\[][\d, ]{0,60}[)\]])(?= )"
    r"|(?:Epoch: (?P<epoch>\d+) )?(?:Iteration|Step|step): ?(?P<step>\d+) |Epoch: (?P<only>\d+) |(?P<plain>\d+) "
)
_PAIR = re.compile(
    r" ?(?P<name>[A-Za-z][\w.@/()%-]{0,80}) : (?P<value>\S{1,60}) (?P<unit>[A-Za-z%][\w/%]{0,15}(?= |$)(?! :))?"
)
_OTHERS = frozenset({"step", "epoch", "iteration", "rank", "time", "attempt", "warmup", "line", "source", ""})


def _read_json(line: bytes) -> Sequence[tuple[str, dict[str, Any]]] | None:
    """Read ``DLLL {...}``; the units of its metrics stand in lines of their own, which `_finish` uses."""
    row = json.loads(line.partition(b"DLLL ")[2])
    if row["type"] == "METADATA":
        if not isinstance(row["metadata"], dict):
            return None
        unit = row["metadata"].get("unit")
        return [("counters", {"name": str(row["metric"]), "_of": str(unit)})] if unit else []
    if row["type"] != "LOG":
        return None
    step, data = row["step"], row["data"]
    if step == "PARAMETER":
        return _said(data.items()) if isinstance(data, dict) else []
    if not isinstance(data, dict):
        return None
    place = [step] if isinstance(step, int) and not isinstance(step, bool) else step
    if isinstance(place, str):
        match = _STEP.match(f"{place} ")
        place = _position(match) if match else [] if not place else None
    if not isinstance(place, list) or not all(isinstance(each, int | float) for each in place):
        return None
    values = {str(name): (float(value), "") for name, value in data.items() if _is_number(value)}
    return _rows([float(each) for each in place], values, float(row["timestamp"]))


def _said(pairs: Iterable[tuple[str, object]]) -> list[tuple[str, dict[str, Any]]]:
    """Return the parameters among what a program was told."""
    found = {_PARAMETERS[name]: value for name, value in pairs if name in _PARAMETERS and _is_number(value)}
    return [(PARAMETERS, found)] if found else []


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_plain(line: bytes) -> Sequence[tuple[str, dict[str, Any]]] | None:
    """Read ``DLL <time> - <step> <name> : <value> <unit> ...``. A blank follows each value, so none is cut short."""
    if len(line) > 20_000:
        return None
    match = _PLAIN.search(line.decode(errors="replace"))
    if match is None:
        return None
    rest = match["rest"]
    if rest.startswith("PARAMETER"):
        pairs = ((pair["name"], pair["value"]) for pair in _PAIR.finditer(rest, len("PARAMETER")))
        return _said((name, float(value)) for name, value in pairs if value.isdecimal())
    at = _STEP.match(rest)
    if at is None:
        return None
    values = {}
    for pair in _PAIR.finditer(rest, at.end()):
        try:
            values[pair["name"]] = (in_si(pair["value"]), pair["unit"] or "")
        except ValueError:
            continue  # a word
    return _rows(_position(at), values, stamp(match["time"])) or None


def _position(match: re.Match[str]) -> list[float]:
    """Return epoch and step, the step alone (as minus infinity and the step), the epoch alone, or nothing."""
    if match["tuple"] is not None:
        return [float(each) for each in re.findall(r"\d+", match["tuple"])]
    if match["only"] is not None:
        return [float(match["only"])]
    step = float(match["step"] or match["plain"])
    return [float(match["epoch"]) if match["epoch"] else -math.inf, step]


def _rows(
    place: Sequence[float], values: Mapping[str, tuple[float, str]], time: float
) -> list[tuple[str, dict[str, Any]]]:
    """Sort values by what they are of: nothing in particular (the run), an epoch, or a step; scores by themselves."""
    if not place:
        return [
            ("counters", {"name": name, "value": _si(value, unit), "unit": _unit(unit)})
            for name, (value, unit) in values.items()
        ]
    where = {"epoch": place[0]} if math.isfinite(place[0]) else {}
    if len(place) == 2:
        where["step"] = place[1]
    found: list[tuple[str, dict[str, Any]]] = []
    row: dict[str, Any] = {}
    for name, (value, unit) in values.items():
        if _SCORE.search(name):
            score = {"task": "validation", "metric": _SCORE.sub("", name), "value": _si(value, unit)}
            found.append(("evals", {**where, "time": time, **score}))
        elif len(place) <= 2:
            plain = _TRAIN.sub("", name)
            column = _COLUMNS.get(plain) or re.sub(r"\W+", "_", plain).strip("_").lower()
            row.setdefault(column if column not in _OTHERS else f"logged_{column}", _si(value, unit))
    if row:
        found.insert(0, ("steps" if len(place) == 2 else "epochs", {**where, "time": time, **row}))
    return found


def _si(value: float, unit: str) -> float:
    if unit in POWERS and unit not in ("K", "M", "G", "T"):
        return in_si(repr(value), unit)
    return value * FACTORS.get(unit, 1)


def _unit(unit: str) -> str:
    if unit in _RATES:
        return "samples/s"
    return {"ms": "s", "us": "s", "ns": "s", "min": "s", "h": "s", "%": ""}.get(unit, "B" if unit in FACTORS else unit)


def _finish(tables: Tables) -> None:
    """Give the numbers of the run their units, and steps that count from the beginning of each epoch no number."""
    counters = tables.get("counters")
    if counters is not None and "_of" in counters:
        units = {str(row["name"]): str(row["_of"]) for _, row in counters.records() if "_of" in row}
        kept = counters.where(np.array(["value" in row for _, row in counters.records()], dtype=bool))
        kept.columns.pop("_of")
        if len(kept):
            names = [units.get(str(name), "") for name in kept["name"].tolist()]
            values = kept.numbers("value")
            kept["value"] = np.array([_si(value, unit) for value, unit in zip(values.tolist(), names, strict=True)])
            kept["unit"] = np.array([_unit(unit) for unit in names], dtype=object)
        tables["counters"] = kept
    for name in ("steps", "evals"):
        rows = tables.get(name)
        if rows is None or "epoch" not in rows or "step" not in rows:
            continue
        epoch, step = rows.numbers("epoch"), rows.numbers("step")
        both = np.flatnonzero(np.isfinite(epoch) & np.isfinite(step))
        if ((np.diff(epoch[both]) > 0) & (np.diff(step[both]) < 0)).any():
            rows.columns["iteration"] = rows.columns.pop("step")


FORMATS = (
    Format(
        name="dllogger-json",
        kind="training",
        title="NVIDIA DLLogger, JSON lines",
        example='DLLL {"timestamp": "1650000000.25", "datetime": "2022-04-15 05:20:00.250000", "elapsedtime": "12.5", '
        '"type": "LOG", "step": [1, 20], "data": {"train.loss": 6.25, "train.total_ips": 2512.5}}',
        parts=(Each("DLLL {", _read_json),),
        finish=_finish,
        untried="written from NVIDIA/dllogger logger.py; the real file at hand holds only the metrics' units",
    ),
    Format(
        name="dllogger",
        kind="training",
        title="NVIDIA DLLogger, lines for people",
        example="DLL 2022-04-15 05:20:00.250000 - Iteration: 20  throughput_train : 151.250 seq/s mlm_loss : 9.8765  "
        "total_loss : 10.5432  learning_rate : 5.0e-06 ",
        parts=(Each("DLL ", _read_plain),),
        finish=_finish,
        untried="written from NVIDIA/dllogger logger.py and lines of BERT, Tacotron 2 and NCF quoted in public READMEs",
    ),
)
