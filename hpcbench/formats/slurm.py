"""Slurm's accounts of jobs: the tables of `sacct`, and `scontrol show job`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from hpcbench.formats import Block, Format, Reading, Record, duration, size, stamp
from hpcbench.metrics import shown
from hpcbench.rows import Tables

_STATES = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "COMPLETING", "CONFIGURING", "DEADLINE", "FAILED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PENDING", "PREEMPTED", "REQUEUED", "RESIZING", "REVOKED", "RUNNING", "SUSPENDED", "TIMEOUT",
)  # fmt: skip
_FAILURES = {  # state → kind of event
    "TIMEOUT": "time_limit", "DEADLINE": "time_limit", "NODE_FAIL": "node_failure", "BOOT_FAIL": "node_failure",
    "OUT_OF_MEMORY": "out_of_memory", "CANCELLED": "cancelled", "PREEMPTED": "preempted", "FAILED": "failed",
}  # fmt: skip
_ENDED = frozenset({*_FAILURES, "COMPLETED"})
# field, in lower case → column, and what reads it
_Readers = Mapping[str, tuple[str, Callable[[str], float]]]
_WAITS = frozenset({"PENDING", "REQUEUED", "CONFIGURING"})


def _state(text: str) -> str:
    """Complete ``CANCELLED by 1000``, ``CANCELLED+`` and ``OUT_OF_ME+``; raises `ValueError` for what is no state."""
    word = text.split(" ", maxsplit=1)[0]
    found = [each for each in _STATES if each == word or (word.endswith("+") and each.startswith(word[:-1]))]
    if len(found) != 1:
        raise ValueError(text)
    return found[0]


def _step(text: str) -> str:
    """Complete ``ba+``, as the columns of the default table are too narrow for the words."""
    words = ("batch", "extern", "interactive")
    return next((word for word in words if text.endswith("+") and word.startswith(text[:-1])), text)


def _whole(text: str) -> float:
    """Read ``4``, or ``4-4`` of a job that runs."""
    return float(re.fullmatch(r"(\d+)(?:-\d+)?", text)[1])  # type: ignore[index]


def _job(state: str, read: _Readers, values: Mapping[str, str]) -> dict[str, Any]:
    """Make a row of what Slurm printed of a job; what is unknown or still expected is left out."""
    row: dict[str, Any] = {"state": state}
    status, _, signal = values.get("exitcode", "").partition(":")
    if state in _ENDED and status.isdigit() and signal.isdigit():
        row["exit_status"] = int(status)
        if int(signal):
            row["signal"] = int(signal)
    for key, (column, convert) in read.items():
        text = values.get(key, "").strip()
        if not text or column in row or (column == "ended" and state not in _ENDED):
            continue
        if column in ("started", "elapsed") and state in _WAITS:
            continue
        with suppress(ValueError, TypeError):  # Unknown, None, N/A, UNLIMITED, INVALID or nothing
            row[column] = convert(text)
    if queue := values.get("partition"):
        row["queue"] = queue
    if name := values.get("jobname"):
        row["name"] = name
    return row


def _failure(line: int, row: Mapping[str, Any], reason: str = "") -> list[Record]:
    kind = _FAILURES.get(str(row["state"]))
    if kind is None:
        return []
    who = " ".join(filter(None, ("job", row.get("job"), f"({row['name']})" if row.get("name") else "")))
    how = [str(row["state"]), *([reason] if reason else [])]
    how += [
        f"{words} {row[key]}" for key, words in (("exit_status", "exit status"), ("signal", "signal")) if row.get(key)
    ]
    time = {"time": row["ended"]} if "ended" in row else {}
    return [Record("events", line, {"kind": kind, "message": shown(f"{who}: {', '.join(how)}", 500), **time})]


_SACCT: _Readers = {  # field, in lower case → column; the first of several that is there
    "elapsed": ("elapsed", duration), "elapsedraw": ("elapsed", float),
    "submit": ("submitted", stamp), "start": ("started", stamp), "end": ("ended", stamp),
    "nnodes": ("nodes", _whole), "allocnodes": ("nodes", _whole),
    "alloccpus": ("cores", _whole), "ncpus": ("cores", _whole), "maxrss": ("max_memory", size),
}  # fmt: skip
_ID = re.compile(r"(?P<job>\d{1,12}(?:_(?:\d{1,9}|\[[^\]]{0,200}\]?))?(?:\+\d{1,9})?)(?:\.(?P<step>[\w+.-]{1,40}))?\+?")
_FIELD = re.compile(r"[A-Z][A-Za-z]{1,25}%?-?\d*")


def _sacct(data: bytes) -> Reading:
    """Read a table of ``sacct``: in columns under a line of dashes, or with bars (-p, -P)."""
    head, *lines = data.split(b"\n")
    names, cells_of, first = _columns(head, lines[0] if lines else b"")
    if not {"jobid", "state"} <= set(names) and not {"jobidraw", "state"} <= set(names):
        return [], 0
    records: list[Record] = []
    jobs: dict[str, Record] = {}
    unread = 0
    for number, line in enumerate(lines[first:], 2 + first):
        cells = cells_of(line)
        values = dict(zip(names, cells, strict=False))
        match = _ID.fullmatch(values.get("jobid") or values.get("jobidraw", ""))
        if match is None:
            unread += line[:1].isdigit()
            continue
        try:
            state = _state(values.get("state", ""))
        except ValueError:
            unread += 1
            continue
        if len(cells) != len(names) or (number > len(lines) and not _is_whole(line, head, lines[0])):
            unread += 1
            continue
        row = {
            "job": match["job"],
            **({"step": _step(match["step"])} if match["step"] else {}),
            **_job(state, _SACCT, values),
        }
        record = Record("jobs", number, row)
        records.append(record)
        if match["step"]:
            job = jobs.get(match["job"])
            if job is not None and row.get("max_memory", 0) > job.values.get("max_memory", 0):
                job.values["max_memory"] = row["max_memory"]  # memory is counted by step
        else:
            jobs[match["job"]] = record
            records += _failure(number, row)
    return records, unread


def _is_whole(line: bytes, head: bytes, under: bytes) -> bool:
    """Tell of a line that no line break ends whether its last cell is whole: a bar follows, or the column is full."""
    if b"|" in head:
        return head.rstrip().endswith(b"|") and line.rstrip().endswith(b"|")
    return len(line) >= len(under.rstrip())


def _columns(head: bytes, under: bytes) -> tuple[list[str], Callable[[bytes], list[str]], int]:
    """Return the names of the columns in lower case, what splits a line into them, and how many lines to skip."""
    text = head.decode(errors="replace").strip()
    if "|" in text:
        names = text.rstrip("|").split("|")
        if len(names) > 1 and all(_FIELD.fullmatch(name) for name in names):
            ends = text.endswith("|")
            return [name.lower() for name in names], lambda line: _barred(line, ends), 0
    spans = [match.span() for match in re.finditer(rb"-{2,}", under)]
    names = text.split()
    if spans and len(spans) == len(names) and re.fullmatch(rb"[- \t]+", under):
        return [name.lower() for name in names], lambda line: _spaced(line, spans), 1
    return [], lambda _line: [], 0


def _barred(line: bytes, ends: bool) -> list[str]:
    cells = line.decode(errors="replace").rstrip("\r").split("|")
    return cells[:-1] if ends and not cells[-1].strip() else cells


def _spaced(line: bytes, spans: list[tuple[int, int]]) -> list[str]:
    text = line.decode(errors="replace")
    return [text[start:end].strip() for start, end in spans if start < len(text.rstrip("\r"))]


_SCONTROL: _Readers = {
    "runtime": ("elapsed", duration), "submittime": ("submitted", stamp), "starttime": ("started", stamp),
    "endtime": ("ended", stamp), "numnodes": ("nodes", _whole), "numcpus": ("cores", _whole),
}  # fmt: skip
_TOLD = {"exitcode", "runtime", "submittime", "numnodes", "timelimit", "starttime", "batchflag"}


def _scontrol(data: bytes) -> Reading:
    """Read what ``scontrol show job`` says of a job, to the next blank line or job; the row's line is its state's."""
    lines: list[bytes] = []
    end = 1 + max(data.rfind(blank) for blank in (b" ", b"\t", b"\n"))  # a word that nothing ends may have been cut
    pieces = data[:end].split(b"\n", 100)[:100]
    for line in pieces:
        if lines and (not line.strip() or line.startswith(b"JobId=")):
            break
        lines.append(line.replace(b"**", b""))  # bold, where it was pasted into a page
    text = b"\n".join(lines).decode(errors="replace")
    values: dict[str, str] = {}
    for match in re.finditer(r"(?:^|[ \t\n])([A-Z][\w/:]{1,40})=(\S*)", text):
        values.setdefault(match[1].lower(), match[2])
    if "jobstate" not in values or len(_TOLD & values.keys()) < 3:
        return [], 0
    number = 1 + next(index for index, line in enumerate(lines) if b"JobState=" in line)
    row = _job(_state(values["jobstate"]), _SCONTROL, values)
    if "jobid" in values:
        row["job"] = values["jobid"]
    reason = values.get("reason", "None")
    unread = int(end < len(data) and len(lines) >= len(pieces) - 1)
    return [Record("jobs", number, row), *_failure(number, row, "" if reason == "None" else reason)], unread


def _by_number(data: bytes) -> Reading:
    """Read a job from its number on; what was cut of it is counted where it is found by its state."""
    return _scontrol(data)[0], 0


def _once(tables: Tables) -> None:
    """Keep one row a job: it is found by its number and, where that was cut off, by its state."""
    for name, rows in tables.items():
        tables[name] = rows.where(np.unique(rows.line, return_index=True)[1])


FORMATS = (
    Format(
        name="slurm-sacct",
        kind="system",
        title="sacct of Slurm, in columns or with bars",
        example="JobID|JobName|State|ExitCode|Elapsed|MaxRSS\n481516|train|TIMEOUT|0:0|02:00:17|",
        parts=(Block("JobID", _sacct, size=1 << 26),),
    ),
    Format(
        name="slurm-scontrol",
        kind="system",
        title="scontrol show job of Slurm",
        example="JobId=481516 JobName=train JobState=FAILED Reason=NonZeroExitCode ExitCode=1:0 RunTime=00:01:02 "
        "SubmitTime=2026-01-02T03:04:05 Partition=gpu NumNodes=2 NumCPUs=64",
        parts=(
            Block("JobId=", _by_number, size=1 << 14),
            Block("JobState=", _scontrol, size=1 << 14),
        ),
        finish=_once,
    ),
)
