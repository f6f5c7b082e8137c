"""hpcbench's own: the records that its workloads print, and the exit record of a job script."""

from __future__ import annotations

import json
import re
from typing import Any

from hpcbench.formats import Each, Format, Reading, Record
from hpcbench.metrics import TABLES

# the word under "record" → the table
_TABLES = {
    "step": "steps",
    "epoch": "epochs",
    "request": "requests",
    "answer": "answers",
    "eval": "evals",
    "counter": "counters",
    "event": "events",
}
_MAX_LINE = 1 << 20
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def _read_record(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read one JSON object; its ``record`` names the table, its other scalar keys are the columns.

    A request that was answered with a choice is a row of two tables.
    """
    if not line.startswith(b"{"):
        return []  # a program that prints the word in a text
    row = _object(line)
    table = _TABLES.get(str(row.pop("record", ""))) if row is not None else None
    if row is None or table is None:
        return None
    values = {key: _plain(value) for key, value in row.items() if _COLUMN.fullmatch(key) and _scalar(value)}
    return [(table, values), *([("answers", _answer(values))] if table == "requests" and _is_answered(values) else [])]


def _is_answered(request: dict[str, Any]) -> bool:
    return "choice" in request and not request.get("error") and request.get("phase") != "warm-up"


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Make of a request the answer to its question, which took as long as the request."""
    answer = {name: request[name] for name in TABLES["answers"] if name in request}
    return {**answer, "duration": request["latency"]} if "latency" in request else answer


def _read_exit(data: bytes, _name: str) -> Reading:
    row = _object(data)
    if row is None or not {"status", "started", "ended"} <= row.keys():
        return [], 1
    numbers = {
        key: value for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    records = []
    if "started" in numbers and "ended" in numbers:
        # of the program alone where something measured it, else with the site's setup before it
        wall = numbers.get("wall_time", numbers["ended"] - numbers["started"])
        records.append(Record("counters", 1, {"name": "wall_time", "value": wall, "unit": "s"}))
        records.append(Record("events", 1, {"time": numbers["started"], "kind": "started"}))
        signal, status = row.get("signal"), numbers.get("status")
        how = f"killed by signal {_plain(signal)}" if isinstance(signal, str) else f"exit status {status}"
        records.append(Record("events", 1, {"time": numbers["ended"], "kind": "finished", "message": how}))
    units = {"user_time": "s", "system_time": "s", "max_memory": "B"}
    records += [
        Record("counters", 1, {"name": name, "value": numbers[name], "unit": unit})
        for name, unit in units.items()
        if name in numbers
    ]
    if "status" in numbers:
        records.append(Record("counters", 1, {"name": "exit_status", "value": numbers["status"], "unit": ""}))
    return records, 0


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line, parse_int=_integer) if len(line) <= _MAX_LINE else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _integer(digits: str) -> int | float:
    """Read a whole number as one where a table can hold it (64 bits)."""
    return int(digits) if len(digits) <= 18 else float(digits)


def _scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _plain(value: object) -> object:
    """Make text storable: JSON can name half of a surrogate pair, which no file can hold."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


FORMATS = (
    Format(
        name="hpcbench-records",
        kind="training",
        title="records of hpcbench's workloads",
        example='{"record": "step", "step": 1, "loss": 5.37, "step_time": 0.0213, "tokens_per_second": 12019.2}',
        parts=(Each('"record"', _read_record),),
    ),
    Format(
        name="hpcbench-exit",
        kind="system",
        title="exit record of a job script",
        example='{"status": 0, "signal": null, "reason": null, "started": 1763.2, "ended": 1790.1, "host": "node1"}',
        sniff=('{"status": ', '"signal": ', '"started": '),
        document=_read_exit,
    ),
)
