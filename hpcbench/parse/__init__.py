"""Logs to metrics: find the files, recognise their formats, read every record with its line."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcbench import formats as known
from hpcbench.errors import UsageError
from hpcbench.formats import custom
from hpcbench.metrics import RESERVED, TABLES, Metrics
from hpcbench.parse.cache import Cache, key
from hpcbench.parse.content import read_bytes
from hpcbench.parse.engine import HIDDEN, Choice
from hpcbench.parse.files import FILE, Batch, Log, read_files
from hpcbench.parse.rows import Rows
from hpcbench.parse.sources import Source, find, name_cases, shown_path
from hpcbench.parse.tables import assemble
from hpcbench.run import Run

__all__ = ["last_step", "parse"]


def parse(
    *paths: Path | str,
    formats: Sequence[str] | None = None,
    label: str | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    cache: bool = True,
    hashes: bool = False,
) -> Metrics:
    """Read every log under `paths` (files, folders, archives) into tables.

    `formats` forces formats by name instead of recognising them; `label` is a regular expression whose named groups,
    found in a path, are the case's parameters. `workers` processes share the work, or `executor` does, whose workers
    must see the same files. With `cache` a file of the same path, size and time of change is not read again. With
    `hashes` every file is read, and the table of sources holds its SHA-256. Raises `UsageError` for a path that does
    not exist or a bad `label`; nothing in a log raises: what cannot be read is counted in ``sources``.
    """
    names = (*(known.get(name).name for name in formats), *HIDDEN) if formats else None
    choice = Choice(names, custom.keys())
    try:
        pattern = re.compile(label) if label else None
    except re.error as error:
        raise UsageError(f"--label: not a regular expression: {error}") from None
    if pattern is not None and not pattern.groupindex:
        raise UsageError(r"--label: name the parameter in a group, as in 'bs(?P<batch>\d+)'")
    if pattern is not None and (taken := sorted(RESERVED.intersection(pattern.groupindex))):
        raise UsageError(f"--label: {taken[0]!r} is the name of a column; choose another")
    runs: dict[str, Run] = {}
    found: dict[tuple[int, int] | str, Source] = {}  # by inode: paths may overlap, and no record counts twice
    for path in map(Path, paths):
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError):
            raise UsageError(f"there is no {path}") from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UsageError(f"{path} is neither a file nor a folder")
        for source in find(path, runs):
            try:
                place = source.path.stat()
            except OSError:  # a link to nothing, or a folder that is closed
                found.setdefault(source.shown, source)
                continue
            if stat.S_ISREG(place.st_mode) or stat.S_ISDIR(place.st_mode):  # a pipe would be waited for without end
                found.setdefault((place.st_dev, place.st_ino), source)
    sources: list[Source] = []
    tables: dict[str, list[Rows]] = {name: [] for name in TABLES}
    by_path = {str(source.path): source for source in found.values()}
    for batch in _read(list(by_path), choice, workers, executor, cache=cache and not hashes, hashes=hashes):
        start = len(sources)
        sources += [_filled(by_path[log.path], log) for log in batch.logs]
        for name, rows in batch.tables.items():
            rows.columns[FILE] = rows.columns[FILE] + start
            tables[name].append(rows)
    # a file in which nothing was recognised is listed with the sources, but it is no case
    order = {path: position for position, path in enumerate(by_path)}
    in_order = sorted(sources, key=lambda source: order[str(source.path)])
    name_cases([source for source in in_order if not source.case and (source.records or source.unread)], pattern)
    return assemble(sources, in_order, tables, runs)


def _read(
    files: list[str], choice: Choice, workers: int, executor: Executor | None, *, cache: bool, hashes: bool
) -> Iterator[Batch]:
    """Read files, those that are known from the cache."""
    if not cache:
        yield from (batch for _, batch in read_files(files, choice, workers, executor, hashes))
        return
    now = time.time()
    store = Cache(choice)
    keys = {file: key(file) for file in files}
    unknown = set(files)
    for positions, batch in store.known(list(keys.values())):
        unknown.difference_update(files[position] for position in positions)
        yield batch
    if unknown:
        rest = [file for file in files if file in unknown]
        for read, batch in read_files(rest, choice, workers, executor, hashes):
            store.store([keys[file] for file in read], read, batch, now)
            yield batch
        store.trim()


def _filled(source: Source, log: Log) -> Source:
    """Put what is known of a log into its source; each file of an archive has one of its own."""
    if log.member:
        shown = f"{source.shown}/{shown_path(Path(log.member))}"
        source = replace(source, shown=shown, parameters=dict(source.parameters))
    source.formats = [log.problem] if log.problem else log.formats.split()
    source.records, source.unread, source.sha256 = log.records, log.unread, log.sha256
    source.bytes, source.lines = log.bytes, log.lines
    return source


def last_step(file: Path, format_name: str, size: int = 64 * 1024) -> dict[str, Any] | None:
    """Return the last training step in a log that may still be growing, or None."""
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - size)
            stream.seek(start)
            data = stream.read()
    except OSError:
        return None
    content = read_bytes(data.partition(b"\n")[2] if start else data, (format_name,))
    steps = content.tables.get("steps")
    if steps is None:
        return None
    (*_, (_, last)) = steps.records()
    return {name: value for name, value in last.items() if isinstance(value, int | float)}
