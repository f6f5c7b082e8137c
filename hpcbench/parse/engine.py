"""Runs formats over the bytes of a file: one search for all anchors at once, then only the lines that hold one.

A file is read in stretches (`streams`). `Scanner.scan` turns a stretch into a `Piece`, whose lines count from the
stretch's beginning, so that stretches of one file can be read apart, in any process; `content` joins the pieces.
"""

from __future__ import annotations

import csv
import math
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import hyperscan
import numpy as np

from hpcbench import formats
from hpcbench.formats import Block, Each, Format, Line, Reading
from hpcbench.parse.alike import read_alike
from hpcbench.parse.columns import convert
from hpcbench.parse.streams import without_colours
from hpcbench.parse.text import BEFORE, Text, find_all, shown_line
from hpcbench.rows import Array, objects

_DENSE = 400  # bytes a hit: where hits are closer together, a pattern runs over the whole stretch
_PLACED = frozenset({"steps", "epochs", "evals", "events"})  # tables whose rows have the time of their lines
_RANKED = _PLACED - {"events"}  # and the rank that wrote them


# what a function that trusts its input may raise
STUMBLES = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError, csv.Error,
)  # fmt: skip


@dataclass
class Found:
    """The rows that one part of a format gave."""

    line: Array
    columns: list[Array] = field(default_factory=list)  # of a `Line`, in the order of its columns
    records: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)  # of other parts
    extra: dict[str, Array] = field(default_factory=dict)  # columns that the place of a line gives
    diverged: int | None = None  # line of the first loss that was not a number

    def add(self, records: Iterable[tuple[str, int, dict[str, Any]]]) -> None:
        """Add rows: table, line and values each."""
        for table, line, values in records:
            self.records.append((table, line, values))
            loss = values.get("loss") if table == "steps" else None
            if self.diverged is None and isinstance(loss, float) and not math.isfinite(loss):
                self.diverged = line

    def moved(self, lines: int) -> Found:
        """Return the same rows, so many lines further down."""
        records = [(table, line + lines, values) for table, line, values in self.records]
        diverged = None if self.diverged is None else self.diverged + lines
        return Found(self.line + lines, self.columns, records, self.extra, diverged)


@dataclass
class Piece:
    """What one stretch of a file holds. Parts are known by their number in the scanner."""

    length: int
    breaks: int  # line breaks
    open_line: bool = False  # the last line has no end
    found: dict[int, Found] = field(default_factory=dict)
    unread: dict[int, int] = field(default_factory=dict)  # lines with an anchor that could not be read
    first_unread: dict[int, int] = field(default_factory=dict)  # the first such line
    first: dict[int, tuple[int, str]] = field(default_factory=dict)  # line and text of the first row of a part
    sniffed: set[bytes] = field(default_factory=set)


class Scanner:
    """The anchors of several formats, compiled into one search."""

    def __init__(self, formats: Sequence[Format], *, forced: bool = False) -> None:
        self.formats = tuple(formats)
        self.forced = forced  # a file is of these formats, whatever it holds
        self.parts: list[tuple[int, Line | Each | Block]] = [
            (index, part) for index, each in enumerate(self.formats) for part in each.parts
        ]
        anchors: dict[bytes, list[int]] = {}
        for number, (_, part) in enumerate(self.parts):
            anchors.setdefault(part.literal if isinstance(part, Line) else part.anchor.encode(), []).append(number)
        for each in self.formats:
            for text in each.sniff:
                anchors.setdefault(text.encode(), [])
        self.sniff = [frozenset(text.encode() for text in each.sniff) for each in self.formats]
        self.sniffs = frozenset().union(*self.sniff)
        self.documents = [index for index, each in enumerate(self.formats) if each.document is not None]
        self.anchors = list(anchors.items())
        self._databases: dict[frozenset[int], Any] = {}
        self._often: frozenset[int] = frozenset()  # anchors that nearly every line of the last stretch held

    def is_weak(self, number: int) -> bool:
        """Whether a part's lines could stand in logs of other formats too, and so prove nothing."""
        return not self.forced and bool(getattr(self.parts[number][1], "weak", False))

    def scan(self, data: bytes, *, last: bool = True, after: Callable[[], bytes] = bytes) -> Piece:
        """Read a stretch of whole lines; in the `last` one a line may be cut short. `after` gives what follows."""
        length, open_line = len(data), bool(data) and not data.endswith(b"\n")
        data = without_colours(data)
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        marks = np.frombuffer(data, np.uint8) == 10
        if b"\r" in data:  # a progress bar goes back to the beginning of its line, but not to another line
            data = data.replace(b"\r", b"\n")
        hits = self._search(data)
        piece = Piece(length, int(np.count_nonzero(marks)), open_line)
        text = Text(data, marks, last)
        for index in sorted(hits):
            literal, numbers = self.anchors[index]
            if literal in self.sniffs:
                piece.sniffed.add(literal)
            for number in numbers:
                part = self.parts[number][1]
                if isinstance(part, Line):
                    self._read_lines(piece, text, number, part, hits[index])
                elif isinstance(part, Each):
                    self._read_each(piece, text, number, part, hits[index])
                else:
                    self._read_blocks(piece, text, number, part, hits[index], after)
        return piece

    def _search(self, data: bytes) -> dict[int, Sequence[int]]:
        """Return where each of `anchors` ends, in order, by its number; one that is not there has no key.

        Telling Python of a place costs more than finding it: an anchor that nearly every line held in the last stretch
        is left out of the common search and found by numpy.
        """
        often = self._often
        found: dict[int, list[int]] = defaultdict(list)

        def collect(number: int, _start: int, end: int, _flags: int, _context: object) -> None:
            found[number].append(end)

        if data and len(often) < len(self.anchors):
            self._database(often).scan(data, match_event_handler=collect)
        for number in often:
            if ends := find_all(data, self.anchors[number][0]).tolist():
                found[number] = ends
        least = max(len(data), 1 << 16) // _DENSE
        self._often = frozenset(number for number, ends in found.items() if len(ends) > least)
        return dict(found)

    def _database(self, without: frozenset[int]) -> Any:
        """Return the compiled search for all anchors but some."""
        if without not in self._databases:
            wanted = [number for number in range(len(self.anchors)) if number not in without]
            database = hyperscan.Database()
            texts = [re.escape(self.anchors[number][0]) for number in wanted]
            database.compile(expressions=texts, ids=wanted, flags=[0] * len(wanted))
            self._databases[without] = database
        return self._databases[without]

    def _read_lines(self, piece: Piece, text: Text, number: int, part: Line, ends: Sequence[int]) -> None:
        dense = len(ends) > 64 and len(text.data) < len(ends) * _DENSE and text.longest_line < BEFORE
        alike = read_alike(text, part, ends) if dense else None
        left = ends if alike is None else alike.left
        rows, at, begins, pieces = _matches(part.regex, text, left, whole=dense and alike is None)
        paired = len(rows) == len(left)
        if rows and text.cut and text.data.find(b"\n", int(at[-1])) < 0 and _cut_short(part, rows[-1], text.data):
            rows, at = rows[:-1], at[:-1]
            begins = None if begins is None else begins[:-1]
        columns, good = convert(rows, part)
        if good is not None:
            at = at[good]
            begins = None if begins is None else begins[good]
        diverged = _diverged(text, at, columns, rows, good, part)
        if alike is not None:
            begins = text.starts_of(at) if begins is None else begins
            at, begins, columns = alike.joined(at, begins, columns, paired=paired)
        line = text.line_of(at)
        if len(line):
            found = Found(line, columns, diverged=diverged)
            names = [column.name for column in part.columns]
            if part.table == "events" and "message" not in names and "message" not in part.constants:
                whole = pieces if len(pieces) == len(at) == len(ends) else None
                places = at.tolist()
                found.extra["message"] = objects([
                    shown_line(whole[index]) if whole and len(whole[index]) < 500 else text.line_at(place)
                    for index, place in enumerate(places)
                ])  # fmt: skip
            if part.table in _PLACED:
                begins = text.starts_of(at) if begins is None else begins
                told = {"time": text.times(begins), "rank": text.ranks(begins) if part.table in _RANKED else None}
                found.extra |= {name: each for name, each in told.items() if each is not None and name not in names}
            piece.found[number] = found
            piece.first[number] = (int(line[0]), text.line_at(int(at[0])))
        # a line that holds the anchor twice may be two that were written at once, of which one was read
        missed = len(ends) - len(line)
        if missed > 0 and not part.loose:
            piece.unread[number] = missed
            piece.first_unread[number] = _first_unread(text, ends, line)

    def _read_each(self, piece: Piece, text: Text, number: int, part: Each, ends: Sequence[int]) -> None:
        starts, _ = text.windows(ends)
        found = Found(np.empty(0, np.int64))
        read: list[tuple[int, Sequence[tuple[str, dict[str, Any]]]]] = []
        done = -1
        for start in starts:
            if start < done:  # the rest of a long line was read already
                continue
            line = text.whole_line(start)
            done = start + len(line or b"")
            try:
                rows = part.read(line) if line is not None else None
            except STUMBLES:
                rows = None
            if rows is None:
                piece.unread[number] = piece.unread.get(number, 0) + 1
                piece.first_unread.setdefault(number, int(text.line_of(np.asarray([start + 1]))[0]))
                continue
            read.append((start, rows))
        begins = np.asarray([start for start, _ in read], dtype=np.int64)
        ranks = text.ranks(begins) if read else None
        for index, (at, (_, rows)) in enumerate(zip(text.line_of(begins + 1).tolist(), read, strict=True)):
            found.add(
                (
                    table,
                    at,
                    {"rank": float(ranks[index]), **values} if ranks is not None and table in _RANKED else values,
                )
                for table, values in rows
            )
        if found.records:
            piece.found[number] = found
            piece.first[number] = (found.records[0][1], text.line_at(starts[0] + 1))

    def _read_blocks(
        self, piece: Piece, text: Text, number: int, part: Block, ends: Sequence[int], after: Callable[[], bytes]
    ) -> None:
        starts, _ = text.windows(ends)
        found = Found(np.empty(0, np.int64))
        for start, stop in pairwise([*starts, len(text.data) + 1]):
            data = text.data[start : min(stop, start + part.size)]
            if stop > len(text.data) and not text.last and len(data) < part.size:
                data += after()[: part.size - len(data)]
            records, unread = guarded(part.read, data)
            # a line of the block may be a part of one in the file, which a carriage return cut
            begins = np.flatnonzero(np.frombuffer(data, np.uint8) == 10) + 1 if records else np.empty(0, np.int64)
            lines = text.line_of(np.concatenate([[start], start + begins]) + 1)
            found.add((each.table, int(lines[min(each.line, len(lines)) - 1]), each.values) for each in records)
            if unread:
                piece.unread[number] = piece.unread.get(number, 0) + unread
        if found.records:
            piece.found[number] = found
            piece.first[number] = (found.records[0][1], text.line_at(starts[0] + 1))


def guarded(read: Callable[[bytes], Reading], data: bytes) -> Reading:
    """Read with a function that trusts its input; one that stumbles has read nothing."""
    try:
        return read(data)
    except STUMBLES:
        return [], 1


def _first_unread(text: Text, ends: Sequence[int], read: Array) -> int:
    """Return the first line that holds an anchor and was not read, or of which only a part was."""
    lines = text.line_of(np.asarray(ends))
    missing = lines[~np.isin(lines, read)]
    if len(missing):
        return int(missing[0])
    values, counts = np.unique(lines, return_counts=True)
    return int(values[np.argmax(counts > 1)])


def _cut_short(part: Line, row: tuple[bytes, ...], data: bytes) -> bool:
    """Tell whether a log ends within the last number of a row, for all we know."""
    last = max((index for index, text in enumerate(row) if text), default=None)
    if last is None or part.columns[last].kind.startswith("."):  # one with all its decimals is whole
        return False
    return row[last][-1:] in b".0123456789" and data.endswith(row[last])


def _matches(
    regex: re.Pattern[bytes], text: Text, ends: Sequence[int], *, whole: bool
) -> tuple[list[tuple[bytes, ...]], Array, Array | None, list[bytes]]:
    """Match the whole stretch, or the lines of hits: the groups, where each match is, and what is known of its line.

    That is where lines begin, if each holds one hit and one match, and the lines that were looked at.
    """
    starts, pieces = ([], []) if whole else text.windows(ends)
    data = text.data if whole else b"\n".join(pieces)
    rows: list[Any] = regex.findall(data)
    begins = None
    # each match holds an anchor of its own: as many of both are pairs, in order
    if len(rows) == len(ends):
        at = np.asarray(ends, dtype=np.int64)
        begins = np.asarray(starts, dtype=np.int64) if len(starts) == len(ends) else None
    else:
        rows, at = _pairs(regex, data, starts, [len(each) + 1 for each in pieces])
    if regex.groups == 1:
        rows = [(each,) for each in rows]
    elif regex.groups == 0:
        rows = [()] * len(rows)
    return rows, at, begins, pieces


def _pairs(
    regex: re.Pattern[bytes], data: bytes, starts: Sequence[int], lengths: Sequence[int]
) -> tuple[list[Any], Array]:
    """Match one by one: the groups, and where in the stretch each match ends.

    `data` is the stretch, or lines of it that begin at `starts`, joined.
    """
    rows: list[Any] = []
    at: list[int] = []
    single = regex.groups == 1
    for match in regex.finditer(data):
        rows.append(match.group(1) or b"" if single else match.groups(b""))
        at.append(match.end())
    positions = np.asarray(at, dtype=np.int64)
    if starts and at:
        begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        index = np.searchsorted(begins, positions - 1, side="right") - 1
        positions = positions - begins[index] + np.asarray(starts)[index]
    return rows, positions


def _diverged(
    text: Text, at: Array, columns: list[Array], rows: list[Any], good: Array | None, part: Line
) -> int | None:
    """Return the first line that printed a loss which is no finite number."""
    names = [column.name for column in part.columns]
    if part.table != "steps" or "loss" not in names or not rows:
        return None
    index = names.index("loss")
    for place in np.flatnonzero(~np.isfinite(columns[index])).tolist():
        if rows[place if good is None else int(good[place])][index]:  # printed, not left out
            return int(text.line_of(at[place : place + 1])[0])
    return None


HIDDEN = frozenset({"failures"})  # what any log may hold, whatever its format


@dataclass(frozen=True)
class Choice:
    """Which formats to read with: all, or those of `names`; `custom` are the user's files."""

    names: tuple[str, ...] | None = None
    custom: tuple[tuple[str, int], ...] = ()


_of_thread = threading.local()  # hyperscan's working memory serves one search at a time


def scanner(choice: Choice) -> Scanner:
    """Return the scanner of some formats, compiled once a thread."""
    scanners: dict[Choice, Scanner] = _of_thread.__dict__.setdefault("scanners", {})
    if choice not in scanners:
        scanners[choice] = _compiled(choice)
    return scanners[choice]


def _compiled(choice: Choice) -> Scanner:
    known = formats.known(choice.custom)
    if choice.names is None:
        return Scanner(list(known.values()))
    return Scanner([known[name] for name in choice.names], forced=True)
