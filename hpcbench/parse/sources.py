"""Files to sources: which logs lie under a path, which case each belongs to, and with which parameters."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpcbench.errors import RunError
from hpcbench.metrics import COLUMNS, RESERVED
from hpcbench.run import Run

_ALWAYS = ("stdout.log", "stderr.log", "perf.txt", "exit.json")  # what a job script leaves beside the benchmark's logs
_BESIDE = re.compile(r"(?:^|\.)params\.(?:yaml|json)$")  # parameters of the logs beside it, no log
PARAMETER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")  # it becomes part of the names of columns and figures


@dataclass
class Source:
    """A file to read, and the case it belongs to."""

    path: str
    shown: str
    run: str = ""
    case: str = ""
    folder: Path | None = None  # of a case that hpcbench launched
    description: Mapping[str, Any] = field(default_factory=dict)  # case.json
    parameters: dict[str, Any] = field(default_factory=dict)
    parameters_from: str = ""
    repeat: int = 1
    copy_of: str = ""
    measured: str = ""  # as in `Log`
    said: Mapping[str, Any] = field(default_factory=dict)  # parameters that the log itself gives
    formats: list[str] = field(default_factory=list)
    records: int = 0
    unread: int = 0
    bytes: int = 0
    lines: int = 0
    sha256: str = ""
    stat: os.stat_result | None = None


def find(path: Path, runs: dict[str, Run]) -> Iterator[Source]:
    """Yield the logs under a path: those of a run's cases where hpcbench launched it, else every plain file."""
    if path.is_file():
        yield Source(str(path), shown_path(path))
        return
    closed: list[OSError] = []
    for folder, subfolders, files in os.walk(path, onerror=closed.append):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if "run.json" in files and (run := _run(Path(folder))) is not None:
            here = Path(folder)
            subfolders.clear()
            if any(here.samefile(other.folder) for other in runs.values()):
                continue
            name = storable(here.resolve().name)  # `.` has none
            name = name if name not in runs else shown_path(here)  # two folders of logs may hold the same name
            runs[name] = run
            for case in run.cases:
                yield from _case_sources(run.folder / case, name)
            continue
        if "case.json" in files:
            subfolders.clear()
            yield from _case_sources(Path(folder), "")
            continue
        for name in sorted(files):
            if not name.startswith(".") and not _BESIDE.search(name):
                file = os.path.join(folder, name)
                yield Source(file, shown_path(file))
    for error in closed:  # a folder that cannot be read is shown as a file that cannot
        yield Source(str(error.filename), shown_path(error.filename))


def _run(folder: Path) -> Run | None:
    """Open a run; None where its ``run.json`` is damaged or another program's, and the logs speak for themselves."""
    try:
        return Run.load(folder) if (folder / "run.json").is_file() else None
    except RunError:
        return None


def shown_path(path: Path | str) -> str:
    """Write a path as text that a file can hold, whatever bytes are in its name."""
    if isinstance(path, str) and path.isascii():
        return path
    return os.fsencode(path).decode(errors="backslashreplace")


def _case_sources(folder: Path, run: str) -> Iterator[Source]:
    description = describe(folder / "case.json")
    files = {folder / name for name in _ALWAYS}
    for glob in description["logs"]:
        with contextlib.suppress(ValueError, IndexError, NotImplementedError, OSError):  # not every text is a pattern
            files.update(folder.glob(glob))
    home = folder.resolve()  # its name is the case's; `.` has none
    for file in sorted(files):
        if file.is_file() and file.resolve().is_relative_to(home):  # no link leads out of a case
            yield Source(
                str(file),
                shown_path(file),
                run or description["run"],
                storable(home.name),
                home,
                description,
                dict(description["parameters"]),
                "case.json",
                description["repeat"],
            )


def describe(file: Path) -> dict[str, Any]:
    """Read a ``case.json`` into the keys used here, each of its type; whoever wrote it is not trusted."""
    try:
        found = json.loads(file.read_bytes()) if file.is_file() else {}  # a pipe would be waited for without end
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
            name: storable_value(value)
            for name, value in table[key].items()
            if PARAMETER.fullmatch(name) and isinstance(value, str | int | float)
        }
        for key in ("parameters", "baseline")
    }
    globs = [glob for glob in table["logs"] if ".." not in glob.split("/")]
    names = {key: found.get(key) for key in ("run", "site", "benchmark")}
    repeat = found.get("repeat")
    return {
        **{key: storable(name) if isinstance(name, str) else "" for key, name in names.items()},
        "repeat": repeat if isinstance(repeat, int) and 0 < repeat < 2**31 else 1,
        "beside": bool(found.get("beside")),
        "parameters": {name: value for name, value in points["parameters"].items() if name not in RESERVED},
        "baseline": points["baseline"],
        "logs": globs,
        "headline": [name for name in words["headline"] if name in COLUMNS],
        "invariant": words["invariant"],
    }


def storable_value(value: str | float) -> str | int | float:
    """Make a parameter's value one that every table can hold: storable text, a finite number of 64 bits."""
    if isinstance(value, str):
        return storable(value)
    return value if fits(value) else str(value)


def storable(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON and file names can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def fits(number: float) -> bool:
    """Tell whether a table can hold a number: finite, and whole ones in 64 bits."""
    return math.isfinite(number) if isinstance(number, float) else abs(number) < 2**63
