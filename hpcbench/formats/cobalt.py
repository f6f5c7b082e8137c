"""Cobalt, the scheduler that was on ALCF's machines: the log that it wrote beside a job's output."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

from hpcbench.formats import Block, Format, Reading, Record
from hpcbench.metrics import shown

_LINE = re.compile(rb"(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}) ([+-]\d{4}) \(\w{1,6}\) ?(.*)")


def _time(match: re.Match[bytes]) -> float:
    text = f"{match[1].decode()} {match[2].decode()}"
    return datetime.strptime(text, "%a %b %d %H:%M:%S %Y %z").astimezone(timezone.utc).timestamp()


def _log(data: bytes) -> Reading:
    """Read the log of a job: when it was submitted, started and ended, and how."""
    head, *lines = data.split(b"\n")
    job = re.fullmatch(rb"Jobid: (\d{1,12})[ \t\r]*", head)
    if job is None:
        return [], 0
    row: dict[str, Any] = {"job": job[1].decode()}
    events: list[Record] = []
    for number, line in enumerate(lines, 2):
        if line.startswith(b"Jobid: "):
            break
        if line.startswith(b"qsub "):
            _asked(line.decode(errors="replace"), row)
        match = _LINE.match(line)
        if match is None:
            continue
        said, time = match[3].decode(errors="replace").strip(), _time(match)
        if said.startswith("submitted with cwd"):
            row["submitted"] = time
        elif said.startswith("Command: "):
            row["started"] = time
        elif number == len(lines) + 1:
            continue  # the last line may have been cut
        elif ended := re.match(r"Info: task completed normally with an exit code of (-?\d{1,6})[;,. ]", said):
            row |= {"exit_status": int(ended[1]), "ended": time}
            if int(ended[1]):
                events.append(_event(number, "failed", said, time))
        elif said.startswith("Info: user delete requested"):
            events.append(_event(number, "cancelled", said, time))
        elif said.startswith("Info: maximum execution time exceeded"):
            events.append(_event(number, "time_limit", said, time))
    if "submitted" not in row and "started" not in row:
        return [], 0
    if events and "exit_status" not in row:
        row["state"] = events[-1].values["kind"]
    return [Record("jobs", 1, row), *events], 0


def _event(line: int, kind: str, said: str, time: float) -> Record:
    return Record("events", line, {"kind": kind, "message": shown(said.removeprefix("Info: "), 500), "time": time})


def _asked(line: str, row: dict[str, Any]) -> None:
    """Read what was asked for on the command line of qsub."""
    for option, column in (("-q", "queue"), ("--queue", "queue"), ("--jobname", "name"), ("-N", "name")):
        if found := re.search(rf" {option}[ =]([^ ]{{1,200}})", line):
            row[column] = found[1]
    if found := re.search(r" (?:-n|--nodecount)[ =](\d{1,9})(?= |$)", line):
        row["nodes"] = int(found[1])


FORMATS = (
    Format(
        name="cobalt",
        kind="system",
        title="log of a job of Cobalt",
        example="Jobid: 481516\nFri Mar 04 19:30:02 2022 +0000 (UTC) submitted with cwd set to: /home/me",
        parts=(Block("Jobid: ", _log, size=1 << 20),),
    ),
)
