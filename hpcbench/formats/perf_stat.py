"""`perf stat`: the text it prints for people, whatever the locale it was printed in."""

from __future__ import annotations

import re

from hpcbench.formats import DIVISORS, Format, Record

_UNITS = {"msec": "ms", "usec": "us", "nsec": "ns"}
_ELAPSED = re.compile(rb"^ +\d+(?P<mark>[.,])\d+(?: \+- \S+)? seconds time elapsed", re.MULTILINE)
_COUNTER = re.compile(
    rb"^ +(?P<value>[\d.,'\xa0\xc2\xe2\x80\xaf]*\d|<not supported>|<not counted>)"
    rb" +(?:(?P<unit>msec|usec|nsec|Joules|MiB|GiB|KiB) +)?(?P<name>[A-Za-z][^\s#]*)[ \t]*(?:[#(].*)?\r?$"
)
_TIME = re.compile(rb"^ +(?P<value>[\d.,]+)(?: \+- .*?)? seconds (?P<name>time elapsed|user|sys)\b.*$")
_TIMES = {b"time elapsed": "wall_time", b"user": "user_time", b"sys": "system_time"}
_SEVERAL = re.compile(rb"^ +\d+(?:[.,]\d+)* +[A-Za-z]")


def _read(data: bytes) -> tuple[list[Record], int]:
    """Read counter blocks. Counts are plain numbers, times are in seconds, energies in joules.

    Which of ``.`` and ``,`` is the decimal mark follows from the elapsed time, which always has nine decimals.
    """
    records: list[Record] = []
    unread = 0
    mark, inside = ".", False
    marks = [match["mark"].decode() for match in _ELAPSED.finditer(data)]
    for number, line in enumerate(data.split(b"\n"), 1):
        if b"Performance counter stats for" in line:
            mark, inside = (marks.pop(0) if len(marks) > 1 else marks[0]) if marks else ".", True
            continue
        if not inside:
            continue
        if match := _TIME.match(line):
            value = _number(match["value"], mark)
            records.append(Record("counters", number, {"name": _TIMES[match["name"]], "value": value, "unit": "s"}))
        elif match := _COUNTER.match(line):
            unit = (match["unit"] or b"").decode()
            unknown = match["value"].startswith(b"<")
            value = float("nan") if unknown else _number(match["value"], mark)
            if unit in _UNITS:
                value, unit = value / DIVISORS[_UNITS[unit]], "s"
            unit = {"Joules": "J"}.get(unit, unit)
            name = match["name"].decode(errors="replace")
            records.append(Record("counters", number, {"name": name, "value": value, "unit": unit}))
        elif _SEVERAL.match(line):
            unread += 1
    return records, unread


def _number(text: bytes, mark: str) -> float:
    whole, _, fraction = (
        text.decode(errors="replace").rpartition(mark)
        if mark in text.decode(errors="replace")
        else (text.decode(errors="replace"), "", "")
    )
    return float(re.sub(r"\D", "", whole) + ("." + fraction if fraction else ""))


FORMATS = (
    Format(
        name="perf-stat",
        title="perf stat, text",
        example="         18,003.70 msec task-clock                       #    1.000 CPUs utilized",
        sniff=r"^ Performance counter stats for ",
        reader=_read,
    ),
)
