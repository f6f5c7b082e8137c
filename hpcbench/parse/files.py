"""Files to contents: how reading is cut into tasks, which run here, in processes or on any executor."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hpcbench.parse.content import Content, assemble
from hpcbench.parse.engine import Piece, Scanner, scanner
from hpcbench.parse.streams import STRETCH, Member, UnreadableError, members, stretches

_RANGE = 32 << 20  # bytes of a large file that one task reads
_OF_FILE = 64 << 10  # what opening a file costs, in bytes that could be read instead
_BATCH = 16 << 20  # bytes of small files that one task reads
_LOOK_AHEAD = 1 << 20  # a block may go on behind the end of its stretch
_WHOLE = 512 << 20  # a document, which is read at once, may be so large
_LONGEST = 64 << 20  # of a line that is longer the rest is left out

Names = tuple[str, ...] | None


@dataclass
class Contents:
    """What a file holds: one content, or one for each file of an archive (by name); and what was wrong with it."""

    members: list[tuple[str, Content]] = field(default_factory=list)
    problem: str = ""
    sha256: str = ""
    bytes: int = 0  # of the file as it lies there


def read_files(
    files: Sequence[Path], names: Names, workers: int, executor: Executor | None, hashes: bool
) -> list[Contents]:
    """Read files, in order, with `workers` processes or on `executor`."""
    if executor is not None:
        return _read_on(executor, files, names, hashes)
    if workers > 1 and sum(map(_size, files)) > _RANGE:  # less is read before a process has begun
        with ProcessPoolExecutor(workers) as pool:
            return _read_on(pool, files, names, hashes)
    return [read_file(file, names, hashes) for file in files]


def _read_on(pool: Executor, files: Sequence[Path], names: Names, hashes: bool) -> list[Contents]:
    """Cut the work into tasks: ranges of large files, and batches of small ones."""
    large: dict[int, list[Future[list[Piece]]]] = {}
    small: list[list[int]] = [[]]
    weight = 0
    for index, file in enumerate(files):
        size = _size(file)
        if size >= 2 * _RANGE and _is_plain(file):
            starts = range(0, size, _RANGE)
            large[index] = [pool.submit(read_ranges, file, start, min(size, start + _RANGE), names) for start in starts]
        else:
            small[-1].append(index)
            weight += size + _OF_FILE
            if weight >= _BATCH:
                small.append([])
                weight = 0
    batches = [pool.submit(read_batch, [files[index] for index in batch], names, hashes) for batch in small]
    found: dict[int, Contents] = {}
    for index, tasks in large.items():
        pieces = [piece for task in tasks for piece in task.result()]
        content = assemble(scanner(names), pieces, partial(_whole, files[index], _size(files[index])))
        found[index] = Contents([("", content)], "", _sha256(files[index]) if hashes else "", _size(files[index]))
    for batch, task in zip(small, batches, strict=True):
        found.update(zip(batch, task.result(), strict=True))
    return [found[index] for index in range(len(files))]


def read_batch(files: Sequence[Path], names: Names, hashes: bool) -> list[Contents]:
    """Read several files: the task of a worker."""
    return [read_file(file, names, hashes) for file in files]


def read_file(file: Path, names: Names, hashes: bool = False) -> Contents:
    """Read a file of any kind; what is wrong with it is said, not raised."""
    chosen = scanner(names)
    contents = Contents(bytes=_size(file))
    try:
        for member in members(file):
            try:
                if member.plain:
                    size = file.stat().st_size
                    pieces = _ranges(file, 0, size, names)
                    content = assemble(chosen, pieces, partial(_whole, file, size))
                else:
                    content = _read_stream(member, chosen)
                contents.members.append((member.name, content))
            except UnreadableError as problem:
                contents.problem = str(problem)
        contents.sha256 = _sha256(file) if hashes else ""
    except UnreadableError as problem:
        contents.problem = str(problem)
    except (OSError, MemoryError):
        contents.problem = "unreadable"
    return contents


def read_ranges(file: Path, start: int, stop: int, names: Names) -> list[Piece]:
    """Read a part of a plain file: the task of a worker."""
    return list(_ranges(file, start, stop, names))


def _ranges(file: Path, start: int, stop: int, names: Names) -> Iterator[Piece]:
    return (read_range(file, at, min(stop, at + STRETCH), names) for at in range(start, stop, STRETCH))


def read_range(file: Path, start: int, stop: int, names: Names) -> Piece:
    """Read the lines of a plain file that begin in a range of its bytes."""
    chosen = scanner(names)
    with file.open("rb") as stream:
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

        return chosen.scan(data, last=end >= size, after=after)


def _line_start(stream: object, at: int) -> int:
    """Return where the first line begins at or after `at`."""
    stream.seek(at - 1)  # type: ignore[attr-defined]
    line: bytes = stream.readline(_LONGEST)  # type: ignore[attr-defined]
    return at - 1 + len(line)


def _read_stream(member: Member, chosen: Scanner) -> Content:
    """Read a packed log one stretch after another, each with the next at hand."""
    kept: list[bytes] = []

    def pieces() -> Iterator[Piece]:
        with member.open() as stream:
            ahead: tuple[bytes, bool] | None = None
            source = _surviving(stretches(stream))
            for data, last in source:
                if ahead is not None:
                    now, following = ahead[0], data
                    yield chosen.scan(now, last=False, after=lambda following=following: following[:_LOOK_AHEAD])  # type: ignore[misc]
                ahead = (data, last)
                if sum(map(len, kept)) + len(data) <= _WHOLE:
                    kept.append(data)
                else:
                    kept[:] = [b"\0" * (_WHOLE + 1)] if not kept or len(kept[0]) <= _WHOLE else kept
            if ahead is not None:
                yield chosen.scan(ahead[0], last=True)

    problems: list[str] = []

    def _surviving(source: Iterator[tuple[bytes, bool]]) -> Iterator[tuple[bytes, bool]]:
        try:
            yield from source
        except UnreadableError as problem:  # what came before the damage stands
            problems.append(str(problem))

    def whole() -> bytes | None:
        data = b"".join(kept)
        return data if len(data) <= _WHOLE else None

    content = assemble(chosen, pieces(), whole)
    if problems and not content.length:
        raise UnreadableError(problems[0])
    content.unread += len(problems)
    return content


def _whole(file: Path, size: int) -> bytes | None:
    return file.read_bytes().removeprefix(b"\xef\xbb\xbf") if size <= _WHOLE else None


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _is_plain(file: Path) -> bool:
    try:
        return next(members(file)).plain
    except (UnreadableError, OSError, StopIteration):
        return False


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else ""
