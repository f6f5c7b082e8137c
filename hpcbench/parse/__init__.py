"""Logs to metrics: find the files, recognise their formats, read every record with its line."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcbench import formats as known
from hpcbench.errors import UsageError
from hpcbench.metrics import RESERVED, Metrics
from hpcbench.parse.content import read_bytes
from hpcbench.parse.engine import HIDDEN
from hpcbench.parse.files import Contents, read_files
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
    hashes: bool = False,
) -> Metrics:
    """Read every log under `paths` (files, folders, archives) into tables.

    `formats` forces formats by name instead of recognising them; `label` is a regular expression whose named groups,
    found in a path, are the case's parameters. `workers` processes share the work, or `executor` does, whose workers
    must see the same files. With `hashes` the table of sources holds the SHA-256 of each file. Raises `UsageError` for
    a path that does not exist or a bad `label`; nothing in a log raises: what cannot be read is counted in ``sources``.
    """
    names = (*(known.get(name).name for name in formats), *HIDDEN) if formats else None
    try:
        pattern = re.compile(label) if label else None
    except re.error as error:
        raise UsageError(f"--label: not a regular expression: {error}") from None
    if pattern is not None and not pattern.groupindex:
        raise UsageError(r"--label: name the parameter in a group, as in 'bs(?P<batch>\d+)'")
    if pattern is not None and (taken := sorted(RESERVED.intersection(pattern.groupindex))):
        raise UsageError(f"--label: {taken[0]!r} is the name of a column; choose another")
    runs: dict[str, Run] = {}
    found: dict[Path, Source] = {}  # by true place: paths may overlap, and no record counts twice
    for path in map(Path, paths):
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError):
            raise UsageError(f"there is no {path}") from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for without end
            raise UsageError(f"{path} is neither a file nor a folder")
        for source in find(path, runs):
            found.setdefault(source.path.resolve(), source)
    sources: list[Source] = []
    for source, contents in zip(
        found.values(),
        read_files([each.path for each in found.values()], names, workers, executor, hashes),
        strict=True,
    ):
        sources += _filled(source, contents)
    # a file in which nothing was recognised is listed with the sources, but it is no case
    name_cases([source for source in sources if not source.case and (source.records or source.unread)], pattern)
    return assemble(sources, runs)


def _filled(source: Source, contents: Contents) -> list[Source]:
    """Put what was read from a file into its source; an archive gives one for each file in it."""
    filled = []
    for member, content in contents.members:
        each = replace(source, shown=f"{source.shown}/{shown_path(Path(member))}") if member else source
        each.formats, each.tables, each.unread = content.formats, content.tables, content.unread
        each.bytes, each.lines, each.sha256 = content.length, content.lines, contents.sha256
        filled.append(each)
    source.bytes = contents.bytes
    if contents.problem:
        source.formats = [contents.problem]
        filled += [source] if source not in filled else []
    return filled


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
