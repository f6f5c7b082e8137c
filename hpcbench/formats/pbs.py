"""PBS Pro, OpenPBS and Torque: what `qstat` prints of jobs, in full, as JSON and as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from hpcbench.formats import Block, Format, Reading, Record, duration, size
from hpcbench.metrics import shown

_ENDED = ("F", "X", "C")  # finished, a finished part of an array, complete (Torque)
# exit statuses of PBS's own, where it ended a job for using too much
_KILLED = {-29: "time_limit", -28: "time_limit", -27: "out_of_memory", -26: "out_of_memory", -20: "node_failure"}
_TIMES = {"submitted": ("ctime", "qtime"), "started": ("stime", "start_time"), "ended": ("obittime", "comp_time")}
_COUNTS = {"nodes": "Resource_List.nodect", "cores": "Resource_List.ncpus"}
_ID = re.compile(r"\d{1,12}(?:\[\d{0,9}\])?(?:\.[\w.*-]{1,200})?")


def _time(text: str) -> float:
    """Read ``Sat Nov 21 02:32:48 2026``; PBS names no zone, so it is taken as UTC, as all such times are."""
    return datetime.strptime(" ".join(text.split()), "%a %b %d %H:%M:%S %Y").replace(tzinfo=timezone.utc).timestamp()


def _job(line: int, job: str, values: Mapping[str, Any]) -> list[Record]:
    """Make the row of a job, and an event where it failed. What a job that goes on may still change is left out."""
    text = {key: str(value).strip() for key, value in values.items() if isinstance(value, str | int | float)}
    row: dict[str, Any] = {"job": job}
    for column, key in (("name", "Job_Name"), ("state", "job_state"), ("queue", "queue")):
        if text.get(key):
            row[column] = text[key]
    for column, keys in _TIMES.items():
        found = next((text[key] for key in keys if text.get(key)), "")
        with suppress(ValueError):
            row[column] = _time(found)
    for column, key in _COUNTS.items():
        if text.get(key, "").isdigit():
            row[column] = int(text[key])
    with suppress(ValueError):
        if text.get("resources_used.walltime"):
            row["elapsed"] = duration(text["resources_used.walltime"])
    with suppress(ValueError):
        row["max_memory"] = size(text.get("resources_used.mem", ""))
    if row.get("state") not in _ENDED:  # one that was requeued still shows how it ended before
        return [Record("jobs", line, row)]
    status = text.get("Exit_status", text.get("exit_status", ""))
    if re.fullmatch(r"-?\d{1,6}", status):
        row["exit_status"] = int(status)
        if 256 < int(status) < 384:
            row["signal"] = int(status) - 256
    return [Record("jobs", line, row), *_failure(line, row, text)]


def _failure(line: int, row: Mapping[str, Any], text: Mapping[str, str]) -> list[Record]:
    status = row.get("exit_status")
    kind = _KILLED.get(status or 0)
    if kind is None and text.get("substate") == "91":
        kind = "cancelled"
    if kind is None and status:
        kind = "failed"
    if kind is None:
        return []
    said = [f"signal {row['signal']}" if "signal" in row else f"exit status {status}"] if status is not None else []
    if text.get("comment"):
        said.append(text["comment"])
    message = f"job {row['job']} ({row.get('name', 'no name')}): {', '.join(said) or 'deleted'}"
    time = {"time": row["ended"]} if "ended" in row else {}
    return [Record("events", line, {"kind": kind, "message": shown(message, 500), **time})]


def _full(data: bytes) -> Reading:
    """Read ``qstat -f`` of a job, to the next blank line or job; long values go on in lines that begin with a tab."""
    lines = data.decode(errors="replace").split("\n")
    head = re.match(r"[ \t]*Job Id: ([^|\r]{1,200})", lines[0])
    job = head[1].strip() if head else ""
    if not _ID.fullmatch(job):
        return [], 0
    values: dict[str, Any] = {}
    unread = 0
    if "|" in lines[0]:  # -F dsv
        fields = re.split(r"(?<!\\)\|", lines[0])[1:]
        if len(lines) == 1:  # no line break ends it: its last field may have been cut
            fields, unread = fields[:-1], 1
        for each in fields:
            name, _, value = each.partition("=")
            values.setdefault(name, value)
    else:
        last = ""
        for index, line in enumerate(lines[1:], 1):
            match = re.match(r" {1,8}([A-Za-z][\w.]*) = (.*)", line)
            goes_on = line.startswith("\t") and last != ""
            if index == len(lines) - 1:  # no line break ends it: it may have been cut
                unread = int(line[:1] in (" ", "\t"))
                if goes_on:
                    del values[last]
            elif match:
                last = match[1]
                values.setdefault(last, match[2].strip())
            elif goes_on:
                values[last] += line.strip()
            else:
                break
    if not {"Job_Name", "job_state"} & values.keys():
        return [], 1
    return _job(1, job, values), unread


_KEY = re.compile(r'"(\d{1,12}(?:\[\d{0,9}\])?\.[^"\n]{1,200})"[ \t]*:[ \t\r\n]*(?=\{)')


def _json(data: bytes, _name: str) -> Reading:
    """Read ``qstat -f -F json``, also several outputs in one file and what jq or a full disk left of one."""
    text = data.decode(errors="replace")
    decoder = json.JSONDecoder()
    records: list[Record] = []
    unread, line, seen = 0, 1, 0
    for match in _KEY.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        try:
            job, _ = decoder.raw_decode(text, match.end())
        except (ValueError, RecursionError):
            unread += 1
            continue
        if not isinstance(job, dict) or not isinstance(job.get("Job_Name"), str):
            continue
        flat = dict(job)
        for name in ("resources_used", "Resource_List"):
            inner = job.get(name)
            if isinstance(inner, dict):
                flat |= {f"{name}.{key}": value for key, value in inner.items()}
        records += _job(line, match[1], flat)
    return records, unread


def _table(data: bytes) -> Reading:
    """Read the tables of ``qstat`` and ``qstat -a``: columns as wide as the dashes under their names."""
    head, *lines = data.decode(errors="replace").split("\n")
    dashes = lines[0] if lines else ""
    spans = [match.span() for match in re.finditer(r"-+", dashes)]
    if not re.fullmatch(r"[- \t\r]+", dashes):
        return [], 0
    if re.match(r"Job [iI][dD] +Name +User +(?:Time Use|% done) +S Queue", head) and len(spans) == 6:
        names: tuple[str, ...] = ("job", "name", "", "", "state", "queue")
    elif (
        re.match(r"Job ID +Username +Queue +Jobname +SessID +NDS +TSK +Memory +Time +S +Time", head)
        and len(spans) == 11
    ):
        names = ("job", "", "queue", "name", "", "nodes", "cores", "", "", "state", "elapsed")
    else:
        return [], 0
    records, unread = [], 0
    for number, line in enumerate(lines[1:], 3):
        cells = [line[start:end].strip() for start, end in spans]
        if names[-1] == "queue":
            cells[-1] = line[spans[-1][0] :].strip()  # the last column is as wide as it must be
        values = dict(zip(names, cells, strict=True))
        if not line.strip():
            break
        cut = number > len(lines)  # no line break ends it: it may have been
        if cut or not _ID.fullmatch(values["job"]) or not re.fullmatch("[A-Z]", values["state"]):
            unread += line[:1].isdigit()
            continue
        row: dict[str, Any] = {key: values[key] for key in ("job", "name", "state", "queue") if values[key]}
        row["job"] = row["job"].rstrip("*")  # which marks one that the column is too narrow for
        for key in ("nodes", "cores"):
            if values.get(key, "").isdigit():  # not 38*, which was cut
                row[key] = int(values[key])
        clock = re.fullmatch(r"(\d{1,6}):(\d\d)", values.get("elapsed", ""))
        if clock:
            row["elapsed"] = 3600 * int(clock[1]) + 60 * int(clock[2])
        records.append(Record("jobs", number, row))
    return records, unread


FORMATS = (
    Format(
        name="pbs-qstat-full",
        kind="system",
        title="qstat -f of PBS and Torque",
        example="Job Id: 42.pbs1|Job_Name=train|job_state=F|queue=workq|resources_used.walltime=00:01:02|Exit_status=0",
        parts=(Block("Job Id: ", _full, size=1 << 18),),
    ),
    Format(
        name="pbs-qstat-json",
        kind="system",
        title="qstat -f -F json of PBS",
        example='{"Jobs": {"42.pbs1": {"Job_Name": "train", "job_state": "R", "queue": "workq"}}}',
        sniff=('"Job_Name":',),
        document=_json,
    ),
    Format(
        name="pbs-qstat",
        kind="system",
        title="the tables of qstat and qstat -a of PBS and Torque",
        example="Job id            Name             User              Time Use S Queue\n"
        "----------------  ---------------- ----------------  -------- - -----\n"
        "42.pbs1           train            me                00:01:02 R workq",
        parts=(
            Block(" S Queue", _table),
            Block(" SessID NDS TSK ", _table),
        ),
    ),
)
