"""Files to batches: how reading is cut into tasks, which run here, in processes or on any executor."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np

from hpcbench.formats import PARAMETERS
from hpcbench.parse.content import Content, assemble
from hpcbench.parse.engine import Choice, Piece, Scanner, scanner
from hpcbench.parse.steady import SPEEDS
from hpcbench.parse.streams import STRETCH, Member, TruncatedError, UnreadableError, members, stretches
from hpcbench.rows import Rows, Tables, joined

_RANGE = 32 << 20  # bytes of a large file that one task reads
_BATCH = 16 << 20  # bytes of small files that one task reads
_OF_FILE = 64 << 10  # what opening a file costs, in bytes that could be read instead
_LOOK_AHEAD = 1 << 20  # a block may go on behind the end of its stretch
_WHOLE = 512 << 20  # a document, which is read at once, may be so large
_OF_ONE_RUN = 8  # different speeds of steps, which no other run has
_LONGEST = 64 << 20  # of a line that is longer the rest is left out

FILE = ""  # the column of a batch's tables that says which log a row is from; no format can name a column so


@dataclass
class Log:
    """One log: a file, or one file of an archive (`member`). `problem` says why it could not be read, or is empty."""

    path: str
    member: str = ""
    formats: str = ""
    bytes: int = 0
    lines: int = 0
    records: int = 0
    unread: int = 0
    problem: str = ""
    sha256: str = ""
    parameters: str = "{}"  # of the run, as the log itself gives them: JSON
    measured: str = ""  # a hash of the speed of every step, where there are enough to be of one run only

    @classmethod
    def of(
        cls, file: str, content: Content | None, member: str = "", problem: str = "", *, hashes: bool = False
    ) -> Log:
        """Describe what a file holds."""
        log = cls(file, member, bytes=_size(file), problem=problem, sha256=sha256(file) if hashes else "")
        if content is not None:
            log.formats, log.lines, log.unread = " ".join(content.formats), content.lines, content.unread
            log.records = sum(map(len, content.tables.values()))
            log.parameters = json.dumps(_said(content.tables.get(PARAMETERS)))
            log.measured = _measured(content.tables.get("steps"))
            log.bytes = content.length if member else log.bytes
        return log


@dataclass
class Batch:
    """What several files hold: their logs, and tables whose column `FILE` is the position of a row's log."""

    logs: list[Log] = field(default_factory=list)
    tables: Tables = field(default_factory=dict)

    @classmethod
    def of(cls, found: Iterable[tuple[Log, Tables]]) -> Batch:
        """Put the logs of several files together."""
        batch = cls()
        parts: dict[str, list[Rows]] = {}
        for log, tables in found:
            for name, rows in tables.items():
                if name == PARAMETERS:
                    continue
                rows.columns[FILE] = np.full(len(rows), len(batch.logs), dtype=np.int64)
                parts.setdefault(name, []).append(rows)
            batch.logs.append(log)
        batch.tables = {name: joined(rows) for name, rows in parts.items()}
        return batch


def _said(rows: Rows | None) -> dict[str, str | int | float]:
    """Return the parameters that a log gives one value each: a log of several runs has none of those that differ."""
    found: dict[str, str | int | float] = {}
    for name, values in rows.columns.items() if rows is not None else ():
        known = {value for value in values.tolist() if value is not None and value == value}  # noqa: PLR0124
        if len(known) == 1:
            value = known.pop()
            if isinstance(value, int | float) and abs(value) < 2**53:  # and beyond, a table holds it as a float
                found[name] = int(value) if value == int(value) else value
            else:
                found[name] = float(value) if isinstance(value, int) else value
    return found


def _measured(steps: Rows | None) -> str:
    """Return a hash of the speeds of steps; none of few, or of such as are the same in every run."""
    for name in SPEEDS if steps is not None and len(steps) >= _OF_ONE_RUN else ():
        values = steps.numbers(name) if steps is not None else np.empty(0)
        if len(np.unique(values[np.isfinite(values)])) >= _OF_ONE_RUN:
            return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return ""


def read_files(
    sizes: Mapping[str, int], choice: Choice, workers: int, executor: Executor | None, hashes: bool
) -> Iterator[tuple[Sequence[str], Batch]]:
    """Read files, of so many bytes each, with `workers` processes or on `executor`.

    Yields batches, each with the files it is of.
    """
    if executor is not None:
        yield from _read_on(executor, sizes, choice, hashes)
    elif (
        workers > 1 and sum(sizes.values()) + _OF_FILE * len(sizes) > _RANGE
    ):  # less is read before a process has begun
        with ProcessPoolExecutor(workers) as pool:
            yield from _read_on(pool, sizes, choice, hashes)
    else:
        for batch in _cut(sizes.items()):
            yield batch, read_batch(batch, choice, hashes)


def _cut(sizes: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    batch: list[str] = []
    weight = 0
    for file, size in sizes:
        batch.append(file)
        weight += size + _OF_FILE
        if weight >= _BATCH:
            yield batch
            batch, weight = [], 0
    if batch:
        yield batch


def _read_on(
    pool: Executor, sizes: Mapping[str, int], choice: Choice, hashes: bool
) -> Iterator[tuple[Sequence[str], Batch]]:
    """Cut the work into tasks: ranges of large files, and batches of small ones."""
    large: list[tuple[str, list[Future[list[Piece]]]]] = []
    small: list[tuple[str, int]] = []
    for file, size in sizes.items():
        if size >= 2 * _RANGE and _is_plain(file):
            starts = range(0, size, _RANGE)
            tasks = [pool.submit(read_ranges, file, at, min(size, at + _RANGE), choice) for at in starts]
            large.append((file, tasks))
        else:
            small.append((file, size))
    cut = list(_cut(small))
    batches = [pool.submit(read_batch, batch, choice, hashes) for batch in cut]
    for file, tasks in large:
        pieces = (piece for task in tasks for piece in task.result())
        content = assemble(scanner(choice), pieces, partial(_whole, file), os.path.basename(file))
        yield [file], Batch.of([(Log.of(file, content, hashes=hashes), content.tables)])
    for files_of_batch, batch in zip(cut, batches, strict=True):
        yield files_of_batch, batch.result()


def read_batch(files: Sequence[str], choice: Choice, hashes: bool = False) -> Batch:
    """Read several files: the task of a worker."""
    found = ((file, *each) for file in files for each in read_file(file, choice))
    return Batch.of(
        (Log.of(file, content, member, problem, hashes=hashes), content.tables if content else {})
        for file, member, content, problem in found
    )


def read_file(file: str, choice: Choice) -> Iterator[tuple[str, Content | None, str]]:
    """Read a file of any kind; yields name in the archive (or none), content, and what is wrong, for each log in it."""
    chosen = scanner(choice)
    try:
        for member in members(Path(file)):
            try:
                if member.plain:
                    pieces = _ranges(file, 0, _size(file), choice)
                    content = assemble(chosen, pieces, partial(_whole, file), os.path.basename(file))
                else:
                    content = _read_stream(member, chosen, os.path.basename(member.name) or Path(file).stem)
                yield member.name, content, ""
            except UnreadableError as problem:
                yield member.name, None, str(problem)
    except UnreadableError as problem:
        yield "", None, str(problem)
    except (OSError, MemoryError):
        yield "", None, "unreadable"


def read_ranges(file: str, start: int, stop: int, choice: Choice) -> list[Piece]:
    """Read a part of a plain file: the task of a worker."""
    return list(_ranges(file, start, stop, choice))


def _ranges(file: str, start: int, stop: int, choice: Choice) -> Iterator[Piece]:
    return (_read_range(file, at, min(stop, at + STRETCH), choice) for at in range(start, stop, STRETCH))


def _read_range(file: str, start: int, stop: int, choice: Choice) -> Piece:
    """Read the lines of a plain file that begin in a range of its bytes."""
    with open(file, "rb") as stream:
        if start:
            start = _line_start(stream, start)
        if start >= stop:
            return Piece(0, 0)
        stream.seek(0, os.SEEK_END)
        size = stream.tell()
        end = size if stop >= size else _line_start(stream, stop)
        stream.seek(start)
        data = stream.read(end - start)
        if not start and data.startswith(b"\xef\xbb\xbf"):
            data = data[3:]

        def after() -> bytes:
            stream.seek(end)
            return stream.read(_LOOK_AHEAD)

        piece = scanner(choice).scan(data, last=end >= size, after=after)
        if piece.open_line and end < size:  # the rest of a line that is too long is left out, its end with it
            piece.breaks, piece.open_line = piece.breaks + 1, False
        return piece


def _line_start(stream: IO[bytes], at: int) -> int:
    """Return where the first line begins at or after `at`."""
    stream.seek(at - 1)
    return at - 1 + len(stream.readline(_LONGEST))


def _read_stream(member: Member, chosen: Scanner, name: str) -> Content:
    """Read a packed log one stretch after another, each with the next at hand."""
    kept: list[bytes] = []  # all of it, for documents, while it is not too much
    length = 0
    problems: list[str] = []

    def surviving(source: Iterator[tuple[bytes, bool]]) -> Iterator[bytes]:
        try:
            yield from (data for data, _ in source)
        except TruncatedError as problem:  # what came before stands
            problems.append(str(problem))

    def pieces() -> Iterator[Piece]:
        nonlocal length
        with member.open() as stream:
            now: bytes | None = None
            for data in surviving(stretches(stream)):
                if now is not None:
                    yield chosen.scan(now, last=False, after=partial(_first, data))
                now = data
                length += len(data)
                kept[:] = [*kept, data] if length <= _WHOLE else []
            if now is not None:
                yield chosen.scan(now, last=True)

    content = assemble(chosen, pieces(), lambda: b"".join(kept) if length <= _WHOLE else None, name)
    if problems and not content.tables:
        raise UnreadableError(problems[0])
    content.unread += len(problems)
    return content


def _first(data: bytes) -> bytes:
    return data[:_LOOK_AHEAD]


def _whole(file: str) -> bytes | None:
    return Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf") if _size(file) <= _WHOLE else None


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except OSError:
        return 0


def _is_plain(file: str) -> bool:
    try:
        return next(members(Path(file))).plain
    except (UnreadableError, OSError, StopIteration):
        return False


def sha256(file: str) -> str:
    """Return the hash of a file, as far as it can be read."""
    digest = hashlib.sha256()
    with suppress(OSError), open(file, "rb") as stream:
        while data := stream.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()
