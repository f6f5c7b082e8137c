"""Log formats: one module each, which says what its lines look like and nothing else.

A module sets `FORMATS`, a tuple of `Format`; it is found by being in this folder. Most formats are a table of `Line`:
a regular expression for one whole line, whose named groups are columns of the table that the line fills. Formats that
are not lines (JSON documents) give a `reader` instead. The engine that runs them is `hpcbench.parse`.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from hpcbench.errors import UsageError, nearest

# No digit can be matched in two ways: a megabyte of them must not take time that is quadratic in its length.
NUMBER = r"[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+|nan|inf)"

# The power of ten that turns a unit of a log into its SI unit.
POWERS: dict[str, int] = {"ms": -3, "us": -6, "ns": -9, "%": -2}
BYTES: dict[str, int] = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True)
class Record:
    """One row: the table it belongs to, its line (counted from 1) and its columns."""

    table: str
    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A kind of line. `pattern` describes all of it; its named groups are columns of `table`.

    `units` gives the unit a column has in the log; `constants` are columns that every such line has; a value in
    `unknown` is what the program prints when it does not know (it becomes NaN).
    """

    table: str
    pattern: str
    units: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, float] = field(default_factory=dict)
    text: frozenset[str] = frozenset()  # groups that are not numbers

    @cached_property
    def regex(self) -> re.Pattern[bytes]:
        """The pattern over the bytes of a file."""
        return re.compile(rb"^" + self.pattern.encode() + rb"[ \t]*\r?$", re.MULTILINE)

    def values(self, match: re.Match[bytes]) -> dict[str, Any]:
        """Turn a match into columns, in SI units."""
        row = dict(self.constants)
        for name, raw in match.groupdict().items():
            if raw is None:
                continue
            if name in self.text:
                row[name] = raw.decode(errors="replace")
                continue
            unit = self.units.get(name, "")
            row[name] = duration(raw) if unit == "clock" else in_si(raw, unit)
            if name in self.unknown and float(raw) == self.unknown[name]:
                row[name] = float("nan")
        return row


@dataclass(frozen=True)
class Format:
    """A kind of log file.

    `sniff` occurs in every file of this kind; `claims` matches the lines that should be read, so that damaged ones can
    be counted. The first `warmup` steps are marked as such. `finish` may complete the records (for example the step
    that a line belongs to). Formats that are not lines have a `reader` of the whole file: it gives the records and the
    number of lines it could not read.
    """

    name: str
    title: str
    example: str
    sniff: str
    lines: tuple[Line, ...] = ()
    claims: str | None = None
    warmup: int = 0
    finish: Callable[[list[Record]], list[Record]] | None = None
    reader: Callable[[bytes], tuple[list[Record], int]] | None = None

    @cached_property
    def sniffer(self) -> re.Pattern[bytes]:
        """`sniff` over the bytes of a file."""
        return re.compile(self.sniff.encode(), re.MULTILINE)

    def read(self, data: bytes) -> tuple[list[Record], int]:
        """Read a file's bytes: its records in the order of their lines, and how many lines could not be read."""
        if self.reader is not None:
            return self.reader(data)
        found: list[tuple[int, Record]] = []
        for line in self.lines:
            number, counted = 1, 0
            for match in line.regex.finditer(data):
                number += data.count(b"\n", counted, match.start())
                counted = match.start()
                found.append((match.start(), Record(line.table, number, line.values(match))))
        found.sort(key=lambda item: item[0])
        records = [record for _, record in found]
        unread = 0
        if self.claims is not None:
            claimed = re.compile(self.claims.encode(), re.MULTILINE).finditer(data)
            starts = {start for start, _ in found}
            unread = sum(match.start() not in starts for match in claimed)
        if self.warmup:
            _mark_warmup(records, self.warmup)
        return (self.finish(records) if self.finish else records), unread


def _mark_warmup(records: Iterable[Record], count: int) -> None:
    """Mark the first `count` steps, wherever they stand: ranks log each step, a second run in a log starts again."""
    first: set[float] = set()
    for record in records:
        if record.table == "steps":
            step = record.values.get("step", float("nan"))
            if len(first) < count:
                first.add(step)
            record.values["warmup"] = step in first


def in_si(text: bytes, unit: str = "") -> float:
    """Read a number in its SI unit; the point moves before it is rounded: 18003.70 ms are 18.0037 s to the digit."""
    power = POWERS.get(unit, 0)
    try:
        number = float(text + f"e{power}".encode())
    except ValueError:  # not a number, infinite, or with an exponent of its own
        number = float(text) * 10.0**power
    return number * BYTES.get(unit, 1)


def duration(text: bytes) -> float:
    """Read ``1:02:03.5``, ``3m2.5s`` or ``2.5`` (a decimal comma too) in seconds."""
    parts = re.split(r"[:hm]", text.decode().rstrip("s").replace(",", "."))
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + float(part)
    return seconds


@lru_cache(maxsize=1)
def all_formats() -> dict[str, Format]:
    """Return every format by name: the modules of this folder."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        for each in getattr(importlib.import_module(f"{__name__}.{module.name}"), "FORMATS", ()):
            found[each.name] = each
    return dict(sorted(found.items()))


def get(name: str) -> Format:
    """Return the format of that name; raises `UsageError` with the nearest."""
    known = all_formats()
    if name not in known:
        raise UsageError(f"unknown format {name!r}{nearest(name, known)}")
    return known[name]
