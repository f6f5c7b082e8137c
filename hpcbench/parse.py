"""Logs to metrics: find the files, recognise their formats, read every record with its line."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench import formats as known
from hpcbench.errors import RunError, UsageError
from hpcbench.formats import Format, Record
from hpcbench.formats.failures import PATTERNS
from hpcbench.metrics import COLUMNS, RESERVED, TABLES, TEXT, Metrics
from hpcbench.run import Run

if TYPE_CHECKING:
    import pandas as pd

_ALWAYS = ("stdout.log", "stderr.log", "perf.txt", "exit.json")  # what a job script leaves beside the benchmark's logs


@dataclass
class _Source:
    """A file to read, and the case it belongs to."""

    path: Path
    shown: str
    run: str = ""
    case: str = ""
    description: Mapping[str, Any] = field(default_factory=dict)  # case.json
    parameters: dict[str, Any] = field(default_factory=dict)
    parameters_from: str = ""
    formats: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    unread: int = 0
    bytes: int = 0
    lines: int = 0
    sha256: str = ""


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
    sources: list[_Source] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"there is no {path}")
        sources += _find(path, runs)
    for source in sources:
        _read_source(source, chosen)
    _name_cases([source for source in sources if not source.case], pattern)
    return _assemble(sources, runs)


def last_step(file: Path, format_name: str, size: int = 64 * 1024) -> dict[str, Any] | None:
    """Return the last training step in a log that may still be growing, or None."""
    try:
        with file.open("rb") as stream:
            start = max(0, stream.seek(0, os.SEEK_END) - size)
            stream.seek(start)
            data = stream.read()
    except OSError:
        return None
    records, _ = known.get(format_name).read(
        data[data.rfind(b"\n", 0, 1) + 1 :] if not start else data.partition(b"\n")[2]
    )
    return next((record.values for record in reversed(records) if record.table == "steps"), None)


def _find(path: Path, runs: dict[str, Run]) -> Iterator[_Source]:
    """Yield the logs under a path: those of a run's cases where hpcbench launched it, else every plain file."""
    if path.is_file():
        yield _Source(path, path.as_posix())
        return
    for folder, subfolders, files in os.walk(path):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        if "run.json" in files:
            subfolders.clear()
            try:
                run = Run.load(here)
            except RunError:
                continue
            name = run.name if run.name not in runs else here.as_posix()  # two folders of logs may hold the same name
            runs[name] = run
            for case in run.cases:
                yield from _case_sources(run.folder / case, name)
            continue
        if "case.json" in files:
            subfolders.clear()
            yield from _case_sources(here, "")
            continue
        for name in sorted(files):
            file = here / name
            if not name.startswith(".") and file.is_file():
                yield _Source(file, file.as_posix())


def _case_sources(folder: Path, run: str) -> Iterator[_Source]:
    description = _description(folder / "case.json")
    names = {*_ALWAYS}
    for glob in description["logs"]:
        names.update(file.relative_to(folder).as_posix() for file in folder.glob(glob))
    for name in sorted(names):
        file = folder / name
        if file.is_file() and not file.is_symlink():
            yield _Source(
                file,
                file.as_posix(),
                run or description["run"],
                folder.name,
                description,
                dict(description["parameters"]),
                "case.json",
            )


def _description(file: Path) -> dict[str, Any]:
    """Read a ``case.json`` into the keys used here, each of its type; whoever wrote it is not trusted."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = {}
    if not isinstance(found, dict):
        found = {}
    table = {
        key: value if isinstance(value := found.get(key), dict) else {} for key in ("parameters", "logs", "baseline")
    }
    words = {
        key: [each for each in value if isinstance(each, str)] if isinstance(value := found.get(key), list) else []
        for key in ("headline", "invariant")
    }
    plain = {key: {k: v for k, v in table[key].items() if isinstance(v, str | int | float)} for key in table}
    globs = [glob for glob in plain["logs"] if glob and not glob.startswith("/") and ".." not in glob.split("/")]
    return {
        **{key: str(found.get(key, "")) for key in ("run", "case", "site", "benchmark")},
        "repeat": found["repeat"] if isinstance(found.get("repeat"), int) else 1,
        "parameters": {name: value for name, value in plain["parameters"].items() if name not in RESERVED},
        "baseline": plain["baseline"],
        "logs": globs,
        "headline": [name for name in words["headline"] if name in COLUMNS],
        "invariant": words["invariant"],
    }


def _name_cases(sources: Sequence[_Source], pattern: re.Pattern[str] | None) -> None:
    """Name the cases of logs that hpcbench did not launch: by `pattern`, else by what varies among their paths.

    A folder is a case when it holds at most one log of each format; else each file is one.
    """
    if pattern is not None:
        for source in sources:
            matches = [match for match in pattern.finditer(source.shown) if match.groupdict()]
            for match in matches:
                source.parameters |= {
                    name: _typed(text) for name, text in match.groupdict().items() if text is not None
                }
            source.parameters_from = "label" if source.parameters else ""
    unlabelled = [source for source in sources if not source.parameters]
    kinds = [(source.path.parent, kind) for source in unlabelled for kind in source.formats]
    by_folder = len(set(kinds)) == len(kinds) and len({folder for folder, _ in kinds}) > 1
    parts = [source.path.parent if by_folder else source.path.with_suffix("") for source in unlabelled]
    for source, varying in zip(unlabelled, _varying([part.as_posix() for part in parts]), strict=True):
        if varying is not None:
            source.parameters[varying[0]] = _typed(varying[1])
            source.parameters_from = "path"
    for source in sources:
        words = [f"{name}{value}" for name, value in source.parameters.items() if name != "log"]
        source.case = "-".join(words) or str(source.parameters.get("log", source.path.stem))


def _varying(stems: Sequence[str]) -> list[tuple[str, str] | None]:
    """Return name and value of the part of each path that differs: ``runs/threads8`` gives ``("threads", "8")``.

    A part without a name of its own is called ``log``.
    """
    if len(set(stems)) < 2:
        return [None] * len(stems)
    start = os.path.commonprefix(stems)  # noqa: RUF071 - by letter, not by folder
    start = start.rstrip("0123456789.")  # 16 and 128 differ as numbers, not in their second digit
    rest = [stem[len(start) :][::-1] for stem in stems]
    end = os.path.commonprefix(rest)[::-1].lstrip("0123456789.")  # noqa: RUF071
    name = re.search(r"([A-Za-z][A-Za-z_]*?)[=_-]?$", start.rpartition("/")[2])
    values = [stem[len(start) : len(stem) - len(end)] for stem in stems]
    if name and all(re.match(r"\d", value) for value in values):
        return [(name[1], value) for value in values]
    cut = start.rpartition("/")[0]
    return [("log", stem[len(cut) :].strip("/")) for stem in stems]


def _typed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            if text.isascii() and "_" not in text:
                return kind(text)
        except ValueError:
            continue
    return text


def _recognise(data: bytes) -> list[Format]:
    return [each for each in known.all_formats().values() if each.sniffer.search(data)]


def _read_source(source: _Source, chosen: Sequence[Format] | None) -> None:
    """Read a file into its source: with the formats asked for, else with those that its content shows."""
    try:
        data = source.path.read_bytes()
    except OSError:
        source.formats = ["unreadable"]
        return
    for each in chosen if chosen is not None else _recognise(data):
        records, unread = each.read(data)
        source.formats.append(each.name)
        source.records += records
        source.unread += unread
    source.records += _failures(data)
    source.bytes = len(data)
    source.lines = data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)
    source.sha256 = hashlib.sha256(data).hexdigest()


def _assemble(sources: Sequence[_Source], runs: Mapping[str, Run]) -> Metrics:
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
            "repeat": source.description.get("repeat", 1),
            "parameters_from": source.parameters_from,
        })  # fmt: skip
    rows["cases"] = _cases(sources, runs)
    parameters = list(dict.fromkeys(name for source in sources for name in source.parameters))
    descriptions = [source.description for source in sources if source.description]
    return Metrics(
        **{name: _table(name, rows[name], parameters) for name in TABLES},
        parameters=tuple(parameters),
        runs={name: run.record for name, run in runs.items()},
        headline=tuple(dict.fromkeys(name for each in descriptions for name in each["headline"])),
        baseline=next((each["baseline"] for each in descriptions if each.get("baseline")), {}),
        invariant=tuple(dict.fromkeys(name for each in descriptions for name in each["invariant"]))
        if descriptions
        else None,
    )


def _failures(data: bytes) -> list[Record]:
    """Find the failures that a log tells of, whatever its format."""
    return [
        Record(
            "events",
            data.count(b"\n", 0, match.start()) + 1,
            {"kind": kind, "message": match[match.lastgroup or 0].decode(errors="replace").strip()[:500]},
        )
        for kind, pattern in PATTERNS
        for match in pattern.finditer(data)
    ]


def _cases(sources: Sequence[_Source], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """List the cases: all that a run planned, with their true state, and those that foreign logs show."""
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        for state in run.states():
            description = _description(run.folder / state.case / "case.json")
            rows.append({
                **description["parameters"],
                "run": name,
                "case": state.case,
                "site": description["site"],
                "benchmark": description["benchmark"],
                "repeat": description["repeat"],
                "state": state.state,
                "reason": state.reason,
                "started": state.started,
                "ended": state.ended,
                "parameters_from": "case.json",
            })  # fmt: skip
    seen = {(row["run"], row["case"]) for row in rows}
    for source in sources:
        if (source.run, source.case) not in seen:
            seen.add((source.run, source.case))
            rows.append({
                **source.parameters,
                "run": source.run,
                "case": source.case,
                "repeat": source.description.get("repeat", 1),
                "state": "unknown",
                "reason": "not launched by hpcbench",
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
    table = pd.DataFrame(rows)
    table = table.reindex(columns=[*columns, *(column for column in table.columns if column not in columns)])
    for column in table.columns:
        if column in TEXT:
            table[column] = table[column].astype("string").fillna("")
        elif column == "warmup":
            table[column] = table[column].astype("boolean").fillna(False).astype(bool)
        elif column not in parameters:
            table[column] = pd.to_numeric(table[column], errors="coerce")
    return table
