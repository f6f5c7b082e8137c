"""`perf stat`: the text it prints for people, its `-x` separated values and its `-j` JSON, in any locale."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np

from hpcbench.formats import Block, Each, Format, Reading, Record, in_si
from hpcbench.rows import Tables

_UNITS = {  # what perf writes → the unit, and its SI unit
    b"msec": ("ms", "s"), b"usec": ("us", "s"), b"nsec": ("ns", "s"), b"Joules": ("J", "J"),
    b"KiB": ("KiB", "B"), b"MiB": ("MiB", "B"), b"GiB": ("GiB", "B"),
}  # fmt: skip
# what stands between thousands; a plain space, which also stands between columns, has a pattern of its own
_MARKS = rb".,'\xa0\xc2\xe2\x80\x99\xaf"
# what stands before a counter: nothing, a CPU (-A), or a core or socket and how many CPUs it sums (--per-core)
_COUNTER = re.compile(
    rb"^(?:(?P<cpu>CPU\d+)|(?P<core>[SN]\d+(?:-[A-Z]\d+)*) +\d+)?"
    rb" +(?P<value>\d{1,3}(?: \d{3})+(?:[.,]\d\d)?|[\d" + _MARKS + rb"]*\d|<not supported>|<not counted>)"
    rb" +(?:(?P<unit>msec|usec|nsec|Joules|MiB|GiB|KiB) +)?(?P<name>[A-Za-z][^\s#]*)[ \t]*(?:[#(].*)?\r?$"
)
_SPREAD = re.compile(rb"\( \+- *(\d+[.,]\d+)% ?\)")  # of repeated runs (-r)
_TIME = re.compile(rb"^ +(?P<value>\d+(?:[.,]\d+)?)(?: \+- \S+)? +seconds (?P<name>time elapsed|user|sys)\b")
_TIMES = {b"time elapsed": "wall_time", b"user": "user_time", b"sys": "system_time"}
_SEVERAL = re.compile(rb"^ +\d[\d" + _MARKS + rb" ]* [A-Za-z]")
_INTERVAL = re.compile(rb"^ +(?P<elapsed>\d+[.,]\d{9})(?= )")


def _read(data: bytes) -> Reading:
    """Read a block of counters. Counts are plain numbers, times are in seconds, energies in joules."""
    records: list[Record] = []
    unread = 0
    _, *lines = data.split(b"\n")
    for number, line in enumerate(lines, 2):
        if line[:1] not in (b" ", b"") and _COUNTER.match(line) is None:
            break  # all other lines of a block are indented: this is another program's
        if match := _TIME.match(line):
            value = float(match["value"].replace(b",", b"."))  # printed without separators of thousands
            row: dict[str, Any] = {"name": _TIMES[match["name"]], "value": value, "unit": "s", **_spread(line)}
        elif number > len(lines) and _may_be_cut(line):
            unread += 1
            continue
        elif match := _COUNTER.match(line):
            row = _counter(match, line)
        else:
            unread += _SEVERAL.match(line) is not None
            continue
        # where the block begins: its line counts from 1 here, and from the file's beginning in the end
        records.append(Record("counters", number, {**row, "block": number}))
    return records, unread


def _read_intervals(data: bytes) -> Reading:
    """Read the lines of ``perf stat -I``: the time since the start, and a counter since the line before."""
    records: list[Record] = []
    _, *lines = data.split(b"\n")
    for number, line in enumerate(lines, 2):
        time = _INTERVAL.match(line)
        if time is None:
            break
        if number > len(lines) and _may_be_cut(line):
            return records, 1
        if match := _COUNTER.match(line[time.end() :]):
            elapsed = float(time["elapsed"].replace(b",", b"."))
            records.append(Record("counters", number, {**_counter(match, line), "elapsed": elapsed}))
    return records, 0


def _may_be_cut(line: bytes) -> bool:
    """Tell of a line that no line break ends whether its name may be cut: only what stands after one shows its end."""
    return bool(line.strip()) and b"#" not in line and b"(" not in line


def _counter(match: re.Match[bytes], line: bytes) -> dict[str, Any]:
    printed, unit = _UNITS.get(match["unit"], ("", ""))
    value = float("nan") if match["value"].startswith(b"<") else in_si(_digits(match["value"]), printed)
    device = match["cpu"] or match["core"]
    where = {"device": device.decode()} if device else {}
    return {"name": match["name"].decode(errors="replace"), "value": value, "unit": unit, **where, **_spread(line)}


def _spread(line: bytes) -> dict[str, float]:
    match = _SPREAD.search(line)
    return {"relative_std": in_si(match[1].replace(b",", b"."), "%")} if match else {}


def _digits(text: bytes) -> bytes:
    """Undo the locale: perf prints two decimals or none, and the last group of thousands has three digits."""
    whole, fraction = (text[:-3], text[-2:]) if re.search(rb"[.,]\d\d$", text) else (text, b"0")
    return re.sub(rb"\D", b"", whole) + b"." + fraction


def _number_blocks(tables: Tables) -> None:
    """Give the blocks of a file numbers from 1, where it has several."""
    counters = tables.get("counters")
    if counters is None or "block" not in counters:
        return
    begins = counters.line - counters.numbers("block")
    known = np.unique(begins[np.isfinite(begins)])
    if len(known) > 1:
        counters["block"] = np.where(np.isfinite(begins), np.searchsorted(known, begins) + 1.0, np.nan)
    else:
        del counters.columns["block"]


def _separated(mark: bytes) -> re.Pattern[bytes]:
    """Make the pattern of a line of ``-x``.

    The time since the start (-I) and what is counted (-A, --per-core) where asked for; value, unit, event; the spread
    of repeated runs; the nanoseconds that the event was counted, and their share of the time.
    """
    pattern = (
        rb"^(?: *(?P<elapsed>\d{1,12}\.\d{9})~)?"
        rb"(?:(?P<cpu>CPU\d{1,6})~|(?P<core>[SN]\d{1,6}(?:-[A-Z]\d{1,6}){0,4})~\d{1,6}~)?"
        rb"(?P<value>\d{1,24}(?:[.,]\d{1,9})?|<not supported>|<not counted>)~(?P<unit>[A-Za-z]{0,12})"
        rb"~(?P<name>[A-Za-z]\S{0,200}?)~(?:(?P<std>\d{1,12}[.,]\d\d)%~)?\d{1,24}~\d{1,3}[.,]\d\d(?:~|[ \t\r]*$)"
    )
    return re.compile(pattern.replace(b"~", re.escape(mark)))


_SEPARATED = [_separated(mark) for mark in (b",", b";", b"\t", b"|", b":")]
# what any such line begins with; a line that begins so and does not go on so was cut
_BEGINS = re.compile(
    rb" {0,20}(?:\d{1,12}\.\d{9}[,;\t|:])?(?:[SNC][\w-]{1,40}[,;\t|:](?:\d{1,6}[,;\t|:])?)?"
    rb"(?:\d{1,24}(?:[.,]\d{1,9})?|<not \w{7,9}>)[,;\t|:](?:msec)?[,;\t|:][a-z]"
)


def _read_separated(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read a line of ``perf stat -x``, whatever the separator; None for one that was cut short."""
    match = next(filter(None, (pattern.match(line[:1000]) for pattern in _SEPARATED)), None)
    if match is None:
        return None if _BEGINS.match(line) else []
    printed, unit = _UNITS.get(match["unit"], ("", match["unit"].decode()))
    text = match["value"]
    value = float("nan") if text.startswith(b"<") else in_si(text.replace(b",", b"."), printed)
    row: dict[str, Any] = {"name": match["name"].decode(errors="replace"), "value": value, "unit": unit}
    if device := match["cpu"] or match["core"]:
        row["device"] = device.decode()
    if match["std"]:
        row["relative_std"] = in_si(match["std"].replace(b",", b"."), "%")
    if match["elapsed"]:
        row["elapsed"] = float(match["elapsed"])
    return [("counters", row)]


def _read_file(data: bytes) -> Reading:
    """Read the lines of a file of ``perf stat -x -o``, whatever its events are called."""
    records = []
    for number, line in enumerate(data.split(b"\n")[1:], 2):
        rows = _read_separated(line)
        if not rows and line.strip():
            break
        records += [Record(table, number, row) for table, row in rows or ()]
    return records, 0


def _once(tables: Tables) -> None:
    """Keep one row a line: several of the words that lines are found by may stand in one."""
    counters = tables.get("counters")
    if counters is not None:
        tables["counters"] = counters.where(np.unique(counters.line, return_index=True)[1])


def _read_json(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read a line of ``perf stat -j``; a number may have the decimal comma of a locale."""
    row = json.loads(line)
    if "event" not in row:
        return []
    text = row["counter-value"]
    printed, unit = _UNITS.get(row["unit"].encode(), ("", row["unit"]))
    value = float("nan") if text.startswith("<") else in_si(text.replace(",", "."), printed)
    found: dict[str, Any] = {"name": row["event"], "value": value, "unit": unit}
    for key, name, power in (("variance", "relative_std", "%"), ("interval", "elapsed", "")):
        if isinstance(row.get(key), int | float):
            found[name] = in_si(repr(row[key]), power)
    if device := next((str(row[key]) for key in ("core", "die", "socket", "node", "thread") if key in row), ""):
        found["device"] = device
    elif "cpu" in row:
        found["device"] = f"CPU{row['cpu']}"  # as the other ways of printing call it
    return [("counters", found)]


# the default events, and what others are called most; a file that perf wrote itself (-o) may have any
_EVENTS = (
    "task-clock", "cpu-clock", "context-switches", "cpu-migrations", "page-faults", "cycles", "instructions",
    "branches", "branch-misses", "cache-misses", "cache-references", "<not supported>", "<not counted>",
)  # fmt: skip
FORMATS = (
    Format(
        name="perf-stat",
        kind="system",
        title="perf stat, text",
        example="         18,003.70 msec task-clock                       #    1.000 CPUs utilized",
        parts=(
            Block("Performance counter stats for ", _read),
            Block(" counts unit events", _read_intervals),
        ),
        finish=_number_blocks,
    ),
    Format(
        name="perf-stat-separated",
        kind="system",
        title="perf stat -x, separated values",
        example="1571.23,msec,task-clock,1571234195,100.00,0.695,CPUs utilized",
        parts=(*(Each(event, _read_separated) for event in _EVENTS), Block("# started on ", _read_file)),
        finish=_once,
    ),
    Format(
        name="perf-stat-json",
        kind="system",
        title="perf stat -j, JSON",
        example='{"counter-value" : "0.962575", "unit" : "msec", "event" : "task-clock", "event-runtime" : 962575, '
        '"pcnt-running" : 100.00, "metric-value" : 0.003820, "metric-unit" : "CPUs utilized"}',
        parts=(Each('"counter-value"', _read_json),),
        untried="written from what perf 6.1 prints",
    ),
)
