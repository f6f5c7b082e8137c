"""The pieces of a file to its content: which formats it is of, and its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from hpcbench.formats import Format, Line, Record, custom
from hpcbench.parse.engine import HIDDEN, STUMBLES, Choice, Found, Piece, Scanner, guarded, scanner
from hpcbench.rows import Array, Rows, Tables, from_records, joined

_TURNS, _TURN = 3, 8  # so many stretches, of so few steps each, are no restarts


@dataclass(frozen=True)
class Evidence:
    """Why a file is taken to be of a format: the first line that shows it, and what was read."""

    format: str
    line: int
    text: str
    rows: int
    unread: int
    first_unread: int | None = None  # line


@dataclass
class Content:
    """What a whole file holds."""

    tables: Tables
    formats: list[str]
    unread: int
    length: int
    lines: int
    evidence: list[Evidence] = field(default_factory=list)


@dataclass
class _Gathered:
    """All pieces of a file, lines counted from its beginning."""

    found: dict[int, list[Found]] = field(default_factory=dict)
    unread: dict[int, int] = field(default_factory=dict)
    first_unread: dict[int, int] = field(default_factory=dict)
    first: dict[int, tuple[int, str]] = field(default_factory=dict)
    sniffed: set[bytes] = field(default_factory=set)
    length: int = 0
    breaks: int = 0
    open_line: bool = False

    def add(self, piece: Piece) -> None:
        for number, found in piece.found.items():
            self.found.setdefault(number, []).append(found.moved(self.breaks))
        for number, count in piece.unread.items():
            self.unread[number] = self.unread.get(number, 0) + count
        for number, line in piece.first_unread.items():
            self.first_unread.setdefault(number, line + self.breaks)
        for number, (line, text) in piece.first.items():
            self.first.setdefault(number, (line + self.breaks, text))
        self.sniffed |= piece.sniffed
        self.length += piece.length
        self.breaks += piece.breaks
        if piece.length:
            self.open_line = piece.open_line


def assemble(scanner: Scanner, pieces: Iterable[Piece], whole: Callable[[], bytes | None], name: str = "") -> Content:
    """Join the pieces of a file, in order, and judge what it is.

    `whole` gives all its bytes, or None if they are too many; `name` is the file's.
    """
    gathered = _Gathered()
    for piece in pieces:
        gathered.add(piece)
    content = Content({}, [], 0, gathered.length, gathered.breaks + gathered.open_line)
    given: list[tuple[Format, Tables]] = []
    for index, of_format in _by_format(scanner, gathered).items():
        each = scanner.formats[index]
        numbers = [number for number in of_format if number in gathered.found]
        strong = [number for number in numbers if not scanner.is_weak(number)]
        damaged = sum(gathered.unread.get(number, 0) for number in of_format)
        tables = _tables(scanner, numbers, gathered.found) if strong else {}
        diverged = [found.diverged for number in numbers for found in gathered.found[number]] if strong else []
        missed = damaged if strong or scanner.forced else 0
        if each.document is not None and (scanner.forced or scanner.sniff[index] <= gathered.sniffed):
            of_file, left = _document(each, whole, name)
            read = from_records(of_file.records)
            missed += left if read or scanner.forced else 0
            diverged.append(of_file.diverged)
            tables = {
                name: joined([rows[name] for rows in (tables, read) if name in rows]) for name in {**tables, **read}
            }
        if not any(map(len, tables.values())):
            content.unread += missed
            continue
        _complete(tables, each)
        if lines := [line for line in diverged if line is not None]:
            _add_divergence(tables, min(lines))
        shown = [gathered.first[number] for number in strong if number in gathered.first]
        line, text = min(shown) if shown else (min(int(rows.line.min()) for rows in tables.values()), "the whole file")
        left_out = [gathered.first_unread[number] for number in of_format if number in gathered.first_unread]
        rows = sum(map(len, tables.values()))
        content.evidence.append(Evidence(each.name, line, text, rows, missed, min(left_out, default=None)))
        content.unread += missed
        given.append((each, tables))
    _settle(content, given)
    return content


def _by_format(scanner: Scanner, gathered: _Gathered) -> dict[int, list[int]]:
    """Return the formats that a file may be of, in order, and the parts of each that it holds, read or not."""
    parts: dict[int, list[int]] = {}
    for number in sorted({*gathered.found, *gathered.unread}):
        parts.setdefault(scanner.parts[number][0], []).append(number)
    for index in scanner.documents:
        if index not in parts and (scanner.forced or scanner.sniff[index] <= gathered.sniffed):
            parts[index] = []
    return dict(sorted(parts.items()))


def _document(each: Format, whole: Callable[[], bytes | None], name: str) -> tuple[Found, int]:
    found, data = Found(np.empty(0, np.int64)), whole()
    document = each.document
    if document is None or data is None:
        return found, 1
    records, left = guarded(lambda whole_file: document(whole_file, name), data)
    found.add((record.table, record.line, record.values) for record in records)
    return found, left


def _tables(scanner: Scanner, numbers: Sequence[int], collected: dict[int, list[Found]]) -> Tables:
    parts: dict[str, list[Rows]] = {}
    for number in numbers:
        part = scanner.parts[number][1]
        for found in collected[number]:
            if isinstance(part, Line):
                names = [column.name for column in part.columns]
                rows = Rows(found.line, {**dict(zip(names, found.columns, strict=True)), **found.extra})
                for name, value in part.constants.items():
                    rows[name] = value
                parts.setdefault(part.table, []).append(rows)
            for table, rows in from_records(found.records).items():
                parts.setdefault(table, []).append(rows)
    return {table: joined(rows).ordered() for table, rows in parts.items()}


def _complete(tables: Tables, each: Format) -> None:
    """Add what the place of rows tells (restarts, warm-up), what the format adds, and that requests failed."""
    if each.finish is not None:
        with suppress(*STUMBLES):  # what it would have added is missing, what was read stays
            each.finish(tables)
    _add_failed_requests(tables)
    steps = tables.get("steps")
    if steps is None or "step" not in steps or not len(steps):
        return
    attempt = _attempts(steps)
    if attempt is not None:
        steps["attempt"] = attempt
    if each.warmup and "warmup" not in steps:
        steps["warmup"] = _warmup(steps, each.warmup).astype(float)


def _add_failed_requests(tables: Tables) -> None:
    """Tell of requests that failed where they are counted: their answers are in no mean."""
    counters = tables.get("counters")
    if counters is None:
        return
    counts: dict[int, float] = {}  # by line: a JSON on one line may hold several runs
    rows = zip(counters.line.tolist(), counters["name"].tolist(), counters.numbers("value").tolist(), strict=True)
    for line, name, count in rows:
        if name == "failed" and 0 < count < math.inf:
            counts[line] = counts.get(line, 0) + count
    for line, count in counts.items():
        _add_event(tables, line, "failed", f"{count:.0f} request{'' if count == 1 else 's'} failed")


def _add_divergence(tables: Tables, line: int) -> None:
    steps = tables["steps"]
    at = np.flatnonzero(steps.line == line)
    step = float(steps.numbers("step")[at[0]]) if len(at) else math.nan
    name = f"of step {step:.0f}" if math.isfinite(step) else "logged here"
    _add_event(tables, line, "nan_loss", f"the loss {name} is not a finite number")


def _add_event(tables: Tables, line: int, kind: str, message: str) -> None:
    event = Rows([line], {"kind": [kind], "message": [message]})
    tables["events"] = joined([tables["events"], event]).ordered() if "events" in tables else event


def _attempts(steps: Rows) -> Array | None:
    """Give the attempts in one log numbers from 1; None where there is but one.

    A new one begins where a rank's steps go back: a program that starts again from a checkpoint logs steps a second
    time, and both are kept.
    """
    step = steps.numbers("step")
    if "rank" not in steps and not (np.diff(step) < 0).any() and np.isfinite(step).all():
        return None
    rank = np.nan_to_num(steps.numbers("rank"), nan=-1)
    numbers = np.ones(len(steps))
    found = False
    for each in np.unique(rank):
        of_rank = np.flatnonzero(rank == each)
        known = of_rank[np.isfinite(step[of_rank])]
        back = np.concatenate([[False], np.diff(step[known]) < 0])
        if back.any() and not _take_turns(step[known], back):
            found = True
            numbers[known] = 1 + np.cumsum(back)
    return numbers if found else None


def _take_turns(step: Array, back: Array) -> bool:
    """Tell several writers of one log, of which none says who it is, from attempts: they go on together.

    Steps go back every few lines, and yet stretches between two such places come to ever later steps; what starts
    again and again at the same checkpoint gets no further.
    """
    begins = np.concatenate([[0], np.flatnonzero(back)])
    highest = np.maximum.reduceat(step, begins)
    further = np.diff(np.maximum.accumulate(highest)) > 0
    return len(begins) > _TURNS and len(step) < _TURN * len(begins) and further.mean() > 0.1


def _warmup(steps: Rows, count: int) -> Array:
    """Mark the first `count` different steps of each attempt."""
    step = steps.numbers("step")
    attempt = np.nan_to_num(steps.numbers("attempt"), nan=1) if "attempt" in steps else np.ones(len(step))
    marks = np.zeros(len(steps), dtype=bool)
    for each in np.unique(attempt):
        of_attempt = attempt == each
        first = np.unique(step[of_attempt])[:count]
        marks |= of_attempt & (step <= first[-1])
    return marks


def _settle(content: Content, given: list[tuple[Format, Tables]]) -> None:
    """Join the tables of all formats; of rows that two formats read from the same line those of the richer one stay."""
    order = sorted(given, key=lambda each: -sum(len(rows) for rows in each[1].values()))
    taken: dict[str, set[int]] = {}
    parts: dict[str, list[Rows]] = {}
    formats: dict[str, int] = {}
    for each, tables in order:
        kept = 0
        for name, read in tables.items():
            rows = read
            if name != "events" and name in taken:
                mask = ~np.isin(read.line, np.fromiter(taken[name], np.int64, len(taken[name])))
                rows = read.where(mask) if not mask.all() else read
            if not len(rows):
                continue
            if name == "counters":
                rows["format"] = each.name
            kept += len(rows)
            parts.setdefault(name, []).append(rows)
            if len(order) > 1:
                taken.setdefault(name, set()).update(rows.line.tolist())
        if kept and each.name not in HIDDEN:
            formats[each.name] = min((item.line for item in content.evidence if item.format == each.name), default=0)
    if "events" in parts:  # a line may say the same in several words
        events = joined(parts["events"]).ordered()
        first: dict[tuple[int, str], int] = {}
        for at, key in enumerate(zip(events.line.tolist(), events["kind"].tolist(), strict=True)):
            first.setdefault(key, at)
        parts["events"] = [events.where(np.array(list(first.values())))]
    content.tables = {name: joined(rows).ordered() for name, rows in parts.items()}
    content.formats = sorted(formats, key=lambda name: formats[name])


def read_bytes(data: bytes, names: Sequence[str] | None = None, file_name: str = "") -> Content:
    """Read the bytes of a whole file."""
    chosen = scanner(Choice(None if names is None else tuple(names), custom.keys()))
    return assemble(chosen, [chosen.scan(data)], lambda: data, file_name)


def records(content: Content) -> list[Record]:
    """Return all rows of a file as records, in the order of their lines."""
    found = [Record(name, line, values) for name, rows in content.tables.items() for line, values in rows.records()]
    return sorted(found, key=lambda record: record.line)
