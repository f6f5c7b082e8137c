"""`perf stat`: the text it prints for people, whatever the locale it was printed in."""

from __future__ import annotations

import re

from hpcbench.formats import Block, Format, Reading, Record, in_si

_UNITS = {  # what perf writes → the unit, and its SI unit
    b"msec": ("ms", "s"), b"usec": ("us", "s"), b"nsec": ("ns", "s"), b"Joules": ("J", "J"),
    b"KiB": ("KiB", "B"), b"MiB": ("MiB", "B"), b"GiB": ("GiB", "B"),
}  # fmt: skip
_COUNTER = re.compile(
    rb"^ +(?P<value>[\d.,'\xa0\xc2\xe2\x80\xaf]*\d|<not supported>|<not counted>)"
    rb" +(?:(?P<unit>msec|usec|nsec|Joules|MiB|GiB|KiB) +)?(?P<name>[A-Za-z][^\s#]*)[ \t]*(?:[#(].*)?\r?$"
)
_TIME = re.compile(rb"^ +(?P<value>\d+(?:[.,]\d+)?)(?: \+- \S+)? +seconds (?P<name>time elapsed|user|sys)\b")
_TIMES = {b"time elapsed": "wall_time", b"user": "user_time", b"sys": "system_time"}
_SEVERAL = re.compile(rb"^ +\d+(?:[.,]\d+)* +[A-Za-z]")


def _read(data: bytes) -> Reading:
    """Read a block of counters. Counts are plain numbers, times are in seconds, energies in joules."""
    records: list[Record] = []
    unread = 0
    for number, line in enumerate(data.split(b"\n")[1:], 2):
        if line[:1] not in (b" ", b""):  # all lines of a block are indented: this is another program's
            break
        if match := _TIME.match(line):
            value = float(match["value"].replace(b",", b"."))  # printed without separators of thousands
            records.append(Record("counters", number, {"name": _TIMES[match["name"]], "value": value, "unit": "s"}))
        elif match := _COUNTER.match(line):
            printed, unit = _UNITS.get(match["unit"], ("", ""))
            value = float("nan") if match["value"].startswith(b"<") else in_si(_digits(match["value"]), printed)
            name = match["name"].decode(errors="replace")
            records.append(Record("counters", number, {"name": name, "value": value, "unit": unit}))
        elif _SEVERAL.match(line):
            unread += 1
    return records, unread


def _digits(text: bytes) -> bytes:
    """Undo the locale: perf prints two decimals or none, and the last group of thousands has three digits."""
    whole, fraction = (text[:-3], text[-2:]) if re.search(rb"[.,]\d\d$", text) else (text, b"0")
    return re.sub(rb"\D", b"", whole) + b"." + fraction


FORMATS = (
    Format(
        name="perf-stat",
        title="perf stat, text",
        example="         18,003.70 msec task-clock                       #    1.000 CPUs utilized",
        parts=(Block("Performance counter stats for ", _read),),
    ),
)
