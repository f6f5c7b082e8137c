"""Formats that a user wrote: YAML files in ``./formats`` or the user's configuration, with the table of `Line`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hpcbench import config
from hpcbench.formats import PARAMETERS, Format, Kind, Line

# A group that holds a repetition without end and is itself repeated without end. Those of this package are tested.
_REPEATED = re.compile(r"\((?:\?:)?[^()]*(?:[+*]|\{\d+,\})[^()]*\)(?:[+*]|\{\d+,\})")

_NEARLY = 0.88  # of two names of columns: as tokens_per_secnd is to tokens_per_second

# A file and when it was written, so that one that was edited is read again.
Key = tuple[str, int]


class _Line(config.Model):
    table: str
    pattern: str
    constants: dict[str, str | int | float] = {}
    unknown: dict[str, int | float] = {}
    weak: bool = False
    loose: bool = False
    anchor: str = ""


class _Format(config.FileModel):
    title: str
    example: str
    kind: Kind = "training"
    warmup: Annotated[int, Field(ge=0)] = 0
    lines: Annotated[list[_Line], Field(min_length=1)]


def keys() -> tuple[Key, ...]:
    """Return the user's format files."""
    found = config.available("formats", "*.yaml")
    return tuple((str(file), file.stat().st_mtime_ns) for file in found.values())


@lru_cache(maxsize=8)
def load(files: tuple[Key, ...]) -> dict[str, Format]:
    """Read format files, by name; raises `ConfigError` with the file and line of a mistake."""
    return {Path(file).stem: load_file(Path(file)) for file, _ in files}


def load_file(file: Path) -> Format:
    """Read and check one format file; raises `ConfigError`."""
    from hpcbench.metrics import COLUMNS, TABLES

    found = config.load(file, _Format, verbatim=frozenset({"lines", "example"}))
    parts = []
    for index, each in enumerate(found.lines):
        if each.table not in (*TABLES, PARAMETERS) or each.table in ("sources", "cases"):
            tables = ", ".join(name for name in (*TABLES, PARAMETERS) if name not in ("sources", "cases"))
            raise found.origin.error(f"table: {each.table!r} is none of {tables}", "lines", index, "table")
        line = Line(**each.model_dump())
        for column in (*(column.name for column in line.columns), *each.constants):
            known = {*COLUMNS, *TABLES.get(each.table, ())}
            if column not in known and (near := get_close_matches(column, known, n=1, cutoff=_NEARLY)):
                message = f"column {column!r}: did you mean {near[0]!r}? Else choose a name that is not so near"
                raise found.origin.error(message, "lines", index, "pattern")
        try:
            _ = line.regex, line.literal
        except (ValueError, re.error) as error:
            raise found.origin.error(f"pattern: {error}", "lines", index, "pattern") from None
        if _REPEATED.search(re.sub(r"\\.", "", each.pattern)):
            message = "a repetition inside a repetition may take forever on some lines"
            raise found.origin.error(f"pattern: {each.pattern!r}: {message}", "lines", index, "pattern")
        parts.append(line)
    if all(line.weak for line in parts):
        raise found.origin.error("every line is weak: no file could be known by them", "lines")
    return Format(file.stem, found.title, found.example, found.kind, tuple(parts), found.warmup)
