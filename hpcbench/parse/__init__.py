"""Logs to metrics: find the files, recognise their formats, read every record with its line."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench import formats as known
from hpcbench.errors import UsageError
from hpcbench.formats import Format, Record, failures
from hpcbench.metrics import RESERVED, TABLES, TEXT, Metrics
from hpcbench.run import Run
from hpcbench.sources import Source, describe, find, name_cases, storable

if TYPE_CHECKING:
    import pandas as pd


def parse(
    *paths: Path | str,
    formats: Sequence[str] | None = None,
    label: str | None = None,
) -> Metrics:
    """Read every log under `paths` (files or folders) into tables.

    `formats` forces formats by name instead of recognising them; `label` is a regular expression whose named groups,
    found in a path, are the case's parameters. Raises `UsageError` for a path that does not exist or a bad `label`;
    nothing in a log raises: what cannot be read is counted in ``sources``.
    """
    chosen = [known.get(name) for name in formats] if formats else None
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
    sources = list(found.values())
    for source in sources:
        _read_source(source, chosen)
    # a file in which nothing was recognised is listed with the sources, but it is no case
    name_cases([source for source in sources if not source.case and (source.records or source.unread)], pattern)
    return _assemble(sources, runs)


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
    records, _ = known.get(format_name).read(data.partition(b"\n")[2] if start else data)
    last = next((record.values for record in reversed(records) if record.table == "steps"), None)
    return last and {name: value for name, value in last.items() if isinstance(value, int | float)}


def _recognise(data: bytes) -> list[Format]:
    return [each for each in known.all_formats().values() if each.sniffer.search(data)]


def _read_source(source: Source, chosen: Sequence[Format] | None) -> None:
    """Read a file into its source: with the formats asked for, else with those that its content shows."""
    try:
        data = source.path.read_bytes()
    except OSError:
        source.formats = ["unreadable"]
        return
    for each in chosen if chosen is not None else _recognise(data):
        records, unread = each.read(data)
        for record in records:
            if record.table == "counters":  # several programs measure the wall time
                record.values["format"] = each.name
        source.formats.append(each.name)
        source.records += records
        source.unread += unread
    source.records += [
        Record("events", line, {"kind": kind, "message": message}) for kind, line, message in failures.find(data)
    ]
    source.bytes = len(data)
    source.lines = data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)
    source.sha256 = hashlib.sha256(data).hexdigest()


def _assemble(sources: Sequence[Source], runs: Mapping[str, Run]) -> Metrics:
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    for source in sources:
        for record in source.records:
            rows[record.table].append({**record.values, "source": source.shown, "line": record.line})
        rows["sources"].append({
            **source.parameters,
            "path": source.shown,
            "format": " ".join(source.formats),
            "bytes": source.bytes,
            "lines": source.lines,
            "records": len(source.records),
            "unread": source.unread,
            "sha256": source.sha256,
            "run": source.run,
            "case": source.case,
            "site": source.description.get("site", ""),
            "benchmark": source.description.get("benchmark", ""),
            "repeat": source.repeat,
            "parameters_from": source.parameters_from,
        })  # fmt: skip
    rows["cases"] = _cases(sources, runs)
    parameters = list(dict.fromkeys(name for source in sources for name in source.parameters))
    said: dict[str, dict[str, Any]] = {}  # by benchmark; its cases were all rendered from one description
    for source in sources:
        if source.description:
            said.setdefault(source.description["benchmark"], dict(source.description))
    return Metrics(
        **{name: _table(name, rows[name], parameters) for name in TABLES},
        parameters=tuple(parameters),
        runs={name: run.record for name, run in runs.items()},
        headline={name: tuple(each["headline"]) for name, each in said.items()},
        baseline={name: each["baseline"] for name, each in said.items()},
        invariant={name: tuple(each["invariant"]) for name, each in said.items()},
    )


def _cases(sources: Sequence[Source], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """List the cases: all that a run planned, with their true state, and those that foreign logs show."""
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        for each in run.states(list(dict.fromkeys(run.cases))):
            description = describe(run.folder / each.case / "case.json")
            rows.append({
                **description["parameters"],
                "run": name,
                "case": each.case,
                "site": description["site"],
                "benchmark": description["benchmark"],
                "repeat": description["repeat"],
                "state": each.state,
                "reason": storable(each.reason),
                "started": each.started,
                "ended": each.ended,
                "parameters_from": "case.json",
            })  # fmt: skip
    seen = {(row["run"], row["case"]) for row in rows}
    for source in sources:
        if source.case and (source.run, source.case) not in seen:
            seen.add((source.run, source.case))
            state, reason = "", "no record tells how it ended" if source.description else "not launched by hpcbench"
            if source.folder is not None:  # without its run it still holds what its job wrote
                alone = Run(source.folder.parent, {"cases": [source.folder.name]}).states()[0]
                if alone.state != "planned":
                    state, reason = alone.state, alone.reason
            rows.append({
                **source.parameters,
                "run": source.run,
                "case": source.case,
                "site": source.description.get("site", ""),
                "benchmark": source.description.get("benchmark", ""),
                "repeat": source.repeat,
                "state": state,
                "reason": storable(reason),
                "parameters_from": source.parameters_from,
            })  # fmt: skip
    return rows


def _table(name: str, rows: list[dict[str, Any]], parameters: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    columns = list(TABLES[name])
    if name not in ("sources", "cases"):
        columns += ["source", "line"]
    else:
        columns += parameters
    table = pd.DataFrame(rows, dtype=object)  # a whole number stays one, though others in its column are missing
    table = table.reindex(columns=[*columns, *(column for column in table.columns if column not in columns)])
    for column in table.columns:
        if name in ("sources", "cases") and column in parameters:
            table[column] = table[column].infer_objects() if table[column].notna().all() else table[column]
        elif column in TEXT:
            table[column] = table[column].astype("string").fillna("")
        elif column == "warmup":
            table[column] = table[column].eq(True)
        else:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    return table
