"""Logs to metrics: find the files, recognise their formats, read every record with its line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcbench import formats as known
from hpcbench.errors import RunError, UsageError
from hpcbench.formats import Format, Record, failures
from hpcbench.metrics import COLUMNS, RESERVED, TABLES, TEXT, Metrics
from hpcbench.run import Run

if TYPE_CHECKING:
    import pandas as pd

_ALWAYS = ("stdout.log", "stderr.log", "perf.txt", "exit.json")  # what a job script leaves beside the benchmark's logs
_PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")  # it becomes part of the names of columns and figures
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")
_KIND = re.compile(r"(?<=.)(?:[._-](?:log|txt|out|err|stdout|stderr|perf|time))+$")  # which log of a case a file is


@dataclass
class _Source:
    """A file to read, and the case it belongs to."""

    path: Path
    shown: str
    run: str = ""
    case: str = ""
    folder: Path | None = None  # of a case that hpcbench launched
    description: Mapping[str, Any] = field(default_factory=dict)  # case.json
    parameters: dict[str, Any] = field(default_factory=dict)
    parameters_from: str = ""
    repeat: int = 1
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
    found: dict[Path, _Source] = {}  # by true place: paths may overlap, and no record counts twice
    for path in map(Path, paths):
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError):
            raise UsageError(f"there is no {path}") from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for without end
            raise UsageError(f"{path} is neither a file nor a folder")
        for source in _find(path, runs):
            found.setdefault(source.path.resolve(), source)
    sources = list(found.values())
    for source in sources:
        _read_source(source, chosen)
    # a file in which nothing was recognised is listed with the sources, but it is no case
    _name_cases([source for source in sources if not source.case and (source.records or source.unread)], pattern)
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


def _find(path: Path, runs: dict[str, Run]) -> Iterator[_Source]:
    """Yield the logs under a path: those of a run's cases where hpcbench launched it, else every plain file."""
    if path.is_file():
        yield _Source(path, _shown(path))
        return
    closed: list[OSError] = []
    for folder, subfolders, files in os.walk(path, onerror=closed.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        here = Path(folder)
        if "run.json" in files and (run := _run(here)) is not None:
            subfolders.clear()
            if any(here.samefile(other.folder) for other in runs.values()):
                continue
            name = _storable(here.resolve().name)  # `.` has none
            name = name if name not in runs else _shown(here)  # two folders of logs may hold the same name
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
                yield _Source(file, _shown(file))
    for error in closed:  # a folder that cannot be read is shown as a file that cannot
        yield _Source(Path(error.filename), _shown(Path(error.filename)))


def _run(folder: Path) -> Run | None:
    """Open a run; None where its ``run.json`` is damaged or another program's, and the logs speak for themselves."""
    try:
        return Run.load(folder)
    except RunError:
        return None


def _shown(path: Path) -> str:
    """Write a path as text that a file can hold, whatever bytes are in its name."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _case_sources(folder: Path, run: str) -> Iterator[_Source]:
    description = _description(folder / "case.json")
    files = {folder / name for name in _ALWAYS}
    for glob in description["logs"]:
        with contextlib.suppress(ValueError, IndexError, NotImplementedError, OSError):  # not every text is a pattern
            files.update(folder.glob(glob))
    home = folder.resolve()  # its name is the case's; `.` has none
    for file in sorted(files):
        if file.is_file() and file.resolve().is_relative_to(home):  # no link leads out of a case
            yield _Source(
                file,
                _shown(file),
                run or description["run"],
                _storable(home.name),
                home,
                description,
                dict(description["parameters"]),
                "case.json",
                description["repeat"],
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
    points = {
        key: {
            name: _value(value)
            for name, value in table[key].items()
            if _PARAMETER.fullmatch(name) and isinstance(value, str | int | float)
        }
        for key in ("parameters", "baseline")
    }
    globs = [glob for glob in table["logs"] if ".." not in glob.split("/")]
    names = {key: found.get(key) for key in ("run", "site", "benchmark")}
    repeat = found.get("repeat")
    return {
        **{key: _storable(name) if isinstance(name, str) else "" for key, name in names.items()},
        "repeat": repeat if isinstance(repeat, int) and 0 < repeat < 2**31 else 1,
        "parameters": {name: value for name, value in points["parameters"].items() if name not in RESERVED},
        "baseline": points["baseline"],
        "logs": globs,
        "headline": [name for name in words["headline"] if name in COLUMNS],
        "invariant": words["invariant"],
    }


def _value(value: str | float) -> str | int | float:
    """Make a parameter's value one that every table can hold: storable text, a finite number of 64 bits."""
    if isinstance(value, str):
        return _storable(value)
    return value if _fits(value) else str(value)


def _storable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON and file names can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _fits(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else abs(number) < 2**63


def _name_cases(sources: Sequence[_Source], pattern: re.Pattern[str] | None) -> None:
    """Name the cases of logs that hpcbench did not launch: by `pattern`, else by what varies among their paths.

    A folder is a case when it holds at most one log of each format; else each file is one, and files that differ only
    in their ending, or in a word like ``perf``, belong together.
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
    parts = [_shown(source.path.parent if by_folder else _stem(source.path)) for source in unlabelled]
    for source, varying in zip(unlabelled, _varying(parts), strict=True):
        if varying is not None:
            source.parameters[varying[0]] = _typed(varying[1])
            source.parameters_from = "path"
    cases: dict[str, list[_Source]] = {}
    for source in sources:
        words = [f"{name}{value}" for name, value in source.parameters.items() if name != "log"]
        case = "-".join(words) or str(source.parameters.get("log", _shown(_stem(source.path)).rpartition("/")[2]))
        cases.setdefault(case, []).append(source)
    for case, members in cases.items():
        for repeat, part in enumerate(_repeats(members), 1):
            for source in part:
                source.case, source.repeat = case if repeat == 1 else f"{case}-r{repeat}", repeat


def _stem(path: Path) -> Path:
    return path.with_name(_KIND.sub("", _ENDING.sub("", path.name) or path.name))


def _repeats(sources: Sequence[_Source]) -> list[list[_Source]]:
    """Split files that have the same parameters into repeats: two logs of one format are not one case."""
    parts = [list(sources)]
    for by_file in (False, True):
        split: list[list[_Source]] = []
        for part in parts:
            if max(Counter(kind for source in part for kind in source.formats).values(), default=0) < 2:
                split.append(part)
                continue
            groups: dict[Path, list[_Source]] = {}
            for source in part:
                groups.setdefault(source.path if by_file else source.path.parent, []).append(source)
            split += groups.values()
        parts = split
    return parts


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
    if name and name[1] not in RESERVED and all(re.match(r"\d", value) for value in values):
        return [(name[1], value) for value in values]
    cut = start.rpartition("/")[0]
    return [("log", stem[len(cut) :].strip("/")) for stem in stems]


def _typed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        # int() and float() also take 1_000, other scripts' digits, nan and infinity: in a path these are words
        return number if text.isascii() and "_" not in text and _fits(number) else text
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


def _cases(sources: Sequence[_Source], runs: Mapping[str, Run]) -> list[dict[str, Any]]:
    """List the cases: all that a run planned, with their true state, and those that foreign logs show."""
    rows: list[dict[str, Any]] = []
    for name, run in runs.items():
        for each in run.states(list(dict.fromkeys(run.cases))):
            description = _description(run.folder / each.case / "case.json")
            rows.append({
                **description["parameters"],
                "run": name,
                "case": each.case,
                "site": description["site"],
                "benchmark": description["benchmark"],
                "repeat": description["repeat"],
                "state": each.state,
                "reason": _storable(each.reason),
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
                "reason": _storable(reason),
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
