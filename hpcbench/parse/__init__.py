"""Logs to metrics: find the files, recognise their formats, read every record with its line."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

from hpcbench import formats as known
from hpcbench.errors import UsageError
from hpcbench.formats import custom
from hpcbench.metrics import RESERVED, TABLES, Metrics
from hpcbench.parse.cache import Cache, key
from hpcbench.parse.content import Evidence
from hpcbench.parse.engine import HIDDEN, Choice
from hpcbench.parse.files import FILE, Batch, Log, read_file, read_files
from hpcbench.parse.growing import Growing
from hpcbench.parse.naming import is_one_of_several, name_cases
from hpcbench.parse.sources import Source, find, shown_path
from hpcbench.parse.tables import assemble
from hpcbench.rows import Rows
from hpcbench.run import Run

__all__ = ["explain", "follow", "parse"]


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
    choice, pattern = _choice(formats), _pattern(label)
    sources, runs = _sources(paths)
    batches = _read(sources, choice, workers, executor, cache=cache and not hashes, hashes=hashes)
    return _metrics(sources, runs, batches, pattern)


def follow(
    *paths: Path | str, formats: Sequence[str] | None = None, label: str | None = None, interval: float = 1.0
) -> Iterator[Metrics]:
    """Read logs that grow: yield what they hold, again whenever there is more, and never end.

    Looks every `interval` seconds, and reads only what is new. Raises as `parse` does.
    """
    choice, pattern = _choice(formats), _pattern(label)
    growing: dict[str, Growing] = {}
    while True:
        sources, runs = _sources(paths)
        files = {source.path: source for source in sources}
        changed = not growing
        for file, source in files.items():
            changed |= growing.setdefault(file, Growing(Path(source.path), choice)).update()
        if changed:
            contents = ((Log.of(file, growing[file].content()), growing[file].content().tables) for file in files)
            yield _metrics(sources, runs, [Batch.of(contents)], pattern)
        time.sleep(interval)


def explain(*paths: Path | str, formats: Sequence[str] | None = None) -> Iterator[tuple[str, str, list[Evidence]]]:
    """Yield for each log its name, what is wrong with it (or nothing), and what shows the formats it was taken for.

    `formats` forces formats by name, as for `parse`.
    """
    choice = _choice(formats)
    for source in _sources(paths)[0]:
        for member, content, problem in read_file(source.path, choice):
            shown = f"{source.shown}/{shown_path(member)}" if member else source.shown
            yield shown, problem, content.evidence if content else []


def _choice(formats: Sequence[str] | None) -> Choice:
    names = (*(known.get(name).name for name in formats), *HIDDEN) if formats else None
    return Choice(names, custom.keys())


def _pattern(label: str | None) -> re.Pattern[str] | None:
    if not label:
        return None
    try:
        pattern = re.compile(label)
    except re.error as error:
        raise UsageError(f"--label: not a regular expression: {error}") from None
    if not pattern.groupindex:
        raise UsageError(r"--label: name the parameter in a group, as in 'bs(?P<batch>\d+)'")
    if taken := sorted(RESERVED.intersection(pattern.groupindex)):
        raise UsageError(f"--label: {taken[0]!r} is the name of a column; choose another")
    return pattern


def _sources(paths: Sequence[Path | str]) -> tuple[list[Source], dict[str, Run]]:
    """Find the logs under paths, in order, and the runs that they belong to."""
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
                source.stat = place = os.stat(source.path)
            except (OSError, ValueError):  # a link to nothing, or a folder that is closed
                found.setdefault(source.shown, source)
                continue
            if stat.S_ISREG(place.st_mode) or stat.S_ISDIR(place.st_mode):  # a pipe would be waited for without end
                found.setdefault((place.st_dev, place.st_ino), source)
    return list(found.values()), runs


def _metrics(
    found: Sequence[Source], runs: dict[str, Run], batches: Iterable[Batch], pattern: re.Pattern[str] | None
) -> Metrics:
    """Make the tables of what was read of the sources found."""
    by_path = {source.path: source for source in found}
    logs: list[Source] = []
    tables: dict[str, list[Rows]] = {name: [] for name in TABLES}
    for batch in batches:
        start = len(logs)
        logs += [_filled(by_path[log.path], log) for log in batch.logs]
        for name, rows in batch.tables.items():
            rows.columns[FILE] = rows.columns[FILE] + start
            tables[name].append(rows)
    order = {path: position for position, path in enumerate(by_path)}
    sources = sorted(logs, key=lambda source: order[source.path])
    # a file in which nothing was recognised is listed with the sources, but it is no case
    unnamed = [source for source in sources if not source.case and (source.records or source.unread)]
    for several in (False, True):  # files of which a case has many stand for themselves
        name_cases([source for source in unnamed if is_one_of_several(source) == several], pattern)
    return assemble(logs, sources, tables, runs)


def _read(
    sources: Sequence[Source], choice: Choice, workers: int, executor: Executor | None, *, cache: bool, hashes: bool
) -> Iterator[Batch]:
    """Read files, those that are known from the cache."""
    sizes = {source.path: source.stat.st_size if source.stat else 0 for source in sources}
    if not cache:
        yield from (batch for _, batch in read_files(sizes, choice, workers, executor, hashes))
        return
    now = time.time()
    store = Cache(choice)
    keys = {source.path: key(source.path, source.stat) for source in sources}
    unknown = set(keys)
    for files, batch in store.known(keys):
        unknown.difference_update(files)
        yield batch
    if unknown:
        rest = {file: size for file, size in sizes.items() if file in unknown}
        for read, batch in read_files(rest, choice, workers, executor, hashes):
            store.add({file: keys[file] for file in read}, batch, now)
            yield batch
        store.close()


def _filled(source: Source, log: Log) -> Source:
    """Put what is known of a log into its source; each file of an archive has one of its own."""
    if log.member:
        shown = f"{source.shown}/{shown_path(log.member)}"
        source = replace(source, shown=shown, parameters=dict(source.parameters))
    source.said = {name: value for name, value in json.loads(log.parameters).items() if name not in RESERVED}
    source.formats = [log.problem] if log.problem else log.formats.split()
    source.records, source.unread, source.sha256 = log.records, log.unread, log.sha256
    source.bytes, source.lines, source.measured = log.bytes, log.lines, log.measured
    return source
