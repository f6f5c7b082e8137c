"""Where a case stands: derived from the journal and from what its job wrote, never stored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hpcbench import process
from hpcbench.metrics import shown
from hpcbench.process import Job

State = Literal[
    "planned", "submitting", "queued", "running", "completed", "failed", "timeout", "out_of_memory",
    "node_failure", "cancelled", "lost", "unknown",
]  # fmt: skip
FINAL = frozenset({"completed", "failed", "timeout", "out_of_memory", "node_failure", "cancelled", "lost"})
FAILED = FINAL - {"completed"}
_WORDS = FINAL | {"planned", "submitting", "queued", "running", "unknown"}

# What a program ends with that came to its end mark, though some of its work failed: requests, say.
_PARTLY = 4
_TAIL = 64 * 1024  # bytes at the end of a log that are looked at for the end marker and the cause of a failure


@dataclass(frozen=True)
class CaseState:
    """Where a case stands. Times are Unix seconds; `reason` says why it did not complete, or what it waits for.

    `job` is a process of this machine; `job_id` is the scheduler's name for the job, or none.
    """

    case: str
    state: State
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    job: Job | None = None
    exit_status: int | None = None
    job_id: str | None = None
    host: str = ""  # the machine that the exit record names


@dataclass(frozen=True)
class Submission:
    """What the journal says of a case's latest submission to a scheduler."""

    job_id: str | None
    log: str  # what the scheduler itself wrote about the job, below the run's folder


_REFUSED = "not accepted: "


def refused(state: CaseState) -> bool:
    """Tell whether a case failed because its job was refused: it never started."""
    return state.state == "failed" and state.reason.startswith(_REFUSED)


def submission(case: str, events: Sequence[Mapping[str, Any]]) -> Submission | None:
    """Return the latest submission of a case; None where there is none, or it was refused."""
    for event in reversed(events):
        cases = event.get("cases")
        if event["event"] in ("again", "rejected", "deferred"):
            return None
        if event["event"] in ("submitting", "submitted") and isinstance(cases, list):
            group = str(event.get("group"))
            kind, job = event.get("kind"), event.get("job")
            if kind == "array":
                index = cases.index(case)
                task = None if job is None else task_id(str(job), index)
                return Submission(task, f"groups/{group}.{index}.log")
            job_id = None if job is None else case if kind == "fed" else str(job)
            return Submission(job_id, f"{case}/scheduler.log")
    return None


def task_id(job: str, index: int) -> str:
    """Return the id of a task of an array: Slurm's ``12_3``, PBS's ``12[3].server``."""
    return job.replace("[]", f"[{index}]", 1) if "[]" in job else f"{job}_{index}"


def by_case(journal: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Sort the events of a journal by the cases they tell of; a new attempt begins anew."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for event in journal:
        cases = event.get("cases")
        told = event.get("states") if event["event"] == "observed" else cases
        names = told if isinstance(told, list | dict) else [event.get("case", "")]
        for name in names:
            events = found.setdefault(str(name), [])
            if event["event"] == "again":
                events.clear()
            events.append(event)
    return found


def here(folder: Path, case: str, description: Mapping[str, Any], events: Sequence[Mapping[str, Any]],
         waiting: State) -> CaseState:  # fmt: skip
    """Derive the state of a case that runs as a process of this machine."""
    happened = {event["event"]: event for event in events}
    started = read_json(folder / "started.json")
    job = _job(started) or _job(happened.get("started"))
    began = number(started or happened.get("started") or {}, "time")
    running = job is not None and process.alive(job)
    record = read_json(folder / "exit.json")  # after asking for the job: it is written before the job's process ends
    if record is not None:
        return _ended(folder, case, description, record, job=job, cancelled="cancelled" in happened)
    if job is not None and running:
        return CaseState(case, "running", "", began, None, job)
    if job is not None and running is None:
        return CaseState(case, "unknown", f"runs on {job.host}, which cannot be asked from here", began, None, job)
    if "cancelled" in happened:
        return CaseState(case, "cancelled", "cancelled before it ended", began, None, job)
    if "ended" in happened:
        how = happened["ended"].get("how") or "without a word"
        return CaseState(case, "failed", f"the job script itself ended ({how})", began, None, job)
    if job is not None:
        return CaseState(case, "lost", "its process is gone and left no exit record", began, None, job)
    if started is not None or (folder / "started.json").exists():
        return CaseState(case, "lost", "it started, but not even its process number was written", began)
    return CaseState(case, "submitting" if "submitting" in happened else waiting)


def there(folder: Path, case: str, description: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> CaseState:
    """Derive the state of a case that a scheduler runs: from its exit record, else what the scheduler last said.

    The scheduler's word alone never makes a case completed: a job that it counts as done, and that left no exit record,
    is lost.
    """
    happened: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event["event"] == "submitting":  # what was said before is about a job before
            happened.pop("observed", None)
        happened[event["event"]] = event
    sent = submission(case, events)
    job_id = sent.job_id if sent else None
    started = read_json(folder / "started.json")
    began = number(started or {}, "time")
    record = read_json(folder / "exit.json")
    state, reason, over = _observed(happened.get("observed"), case)
    if record and started and number(record, "started") != began:
        record = None  # of an attempt before: the scheduler has run it once more
    if record is not None:
        told = _told_to_stop(record) and "cancelled" not in happened and job_id is not None
        if told and record.get("reason") is None:  # nobody but a scheduler tells only the program
            told = job_id != case and _how(folder, description, record, cancelled=False)[0] == "failed"
            told = told and (state is None or state not in ("failed", "lost", "completed"))
        if told and (over is None or over != number(record, "ended")):
            return _stopped_by_scheduler(case, state, reason, record, job_id)
        # a submission may have been cut off before its id came, and the job ran to its end all the same
        named = job_id or str((started or {}).get("job") or "") or None
        ended = _ended(folder, case, description, record, job_id=named, cancelled="cancelled" in happened)
        if ended.state == "completed" or over is None or over != ended.ended:
            return ended
        return CaseState(case, state or "queued", reason, began, job_id=job_id)  # the scheduler runs it once more
    if state == "completed":
        return CaseState(
            case, "lost", reason or "the scheduler says it ended; it left no exit record", began, job_id=job_id
        )
    if state == "failed" and sent is not None:
        memory = _memory(tail(folder.parent / sent.log))
        if memory:
            return CaseState(case, "out_of_memory", f"{reason}: {memory}", began, job_id=job_id)
    if "cancelled" in happened and (job_id is None or state == "lost"):
        return CaseState(case, "cancelled", "cancelled before it ended", began, job_id=job_id)
    if state is not None:
        return CaseState(case, state, reason, began, job_id=job_id)
    if "rejected" in happened and sent is None:
        return CaseState(case, "failed", f"{_REFUSED}{happened['rejected'].get('message', '')}")
    if sent is None:
        return CaseState(case, "planned")
    return CaseState(case, "queued" if job_id else "submitting", "", began, job_id=job_id)


def _told_to_stop(record: Mapping[str, Any]) -> bool:
    """Tell whether a job was told to stop: its script says so, or its program got the signal a moment before it did."""
    return record.get("reason") == "terminated" or (record.get("reason") is None and record.get("signal") == "TERM")


def _stopped_by_scheduler(
    case: str, state: State | None, reason: str, record: Mapping[str, Any], job_id: str | None
) -> CaseState:
    """Derive the state of a case whose job script was told to stop by its scheduler, which alone knows why."""
    began, ended = number(record, "started"), number(record, "ended")
    if state in ("cancelled", "timeout", "node_failure", "out_of_memory"):
        return CaseState(case, state, reason or "told to stop by its scheduler", began, ended, job_id=job_id)
    if state in FINAL:
        why = "was told to stop from outside" + (f" ({reason})" if reason and state != "lost" else "")
        return CaseState(case, "failed", why, began, ended, job_id=job_id)
    if state == "unknown":
        return CaseState(case, state, reason, began, job_id=job_id)
    return CaseState(case, "running", "was told to stop; its scheduler has not said why yet", began, job_id=job_id)


def _observed(event: Mapping[str, Any] | None, case: str) -> tuple[State | None, str, float | None]:
    """Read what the scheduler last said of a case, and the end of the exit record that it overrules."""
    told = (event or {}).get("states", {}).get(case)
    if not (isinstance(told, list) and len(told) >= 2 and told[0] in _WORDS):
        return None, "", None
    over = told[2] if len(told) > 2 and isinstance(told[2], int | float) else None
    return told[0], str(told[1]), over


def _ended(
    folder: Path, case: str, description: Mapping[str, Any], record: Mapping[str, Any], *, cancelled: bool,
    job: Job | None = None, job_id: str | None = None,
) -> CaseState:  # fmt: skip
    state, reason = _how(folder, description, record, cancelled=cancelled)
    status = record.get("status") if isinstance(record.get("status"), int) else None
    host = record.get("host") if isinstance(record.get("host"), str) else ""
    return CaseState(
        case, state, reason, number(record, "started"), number(record, "ended"), job, status, job_id, str(host)
    )


def _how(
    folder: Path, description: Mapping[str, Any], record: Mapping[str, Any], *, cancelled: bool
) -> tuple[State, str]:
    """Tell how a case ended from its exit record, its logs and its benchmark's end marker."""
    status, signal, why = record.get("status"), record.get("signal"), record.get("reason")
    if why == "time_limit":
        return "timeout", "ended at its time limit"
    if why == "terminated" or (cancelled and _told_to_stop(record)):
        return ("cancelled", "ended on request") if cancelled else ("failed", "was told to stop from outside")
    if why == "setup":
        words = _last_words(folder / "stderr.log")
        return "failed", f"the site's setup ended with status {status} before the program began{words}"
    if status in (0, _PARTLY) and signal is None:
        end = description.get("end")
        mark = (end.get("file"), end.get("text")) if isinstance(end, dict) else (None, None)
        found = record.get("end")  # job scripts of before looked for no mark
        marked = end is not None and (found if isinstance(found, bool) else _has_mark(folder, *mark))
        if status == _PARTLY and marked:
            return "completed", f"not all of it: exit status {status}{_last_words(folder / 'stderr.log')}"
        if status == 0 and (end is None or marked):
            return "completed", ""
        if status == 0:
            return "failed", f"exit status 0, but {mark[0]} has no end marker"
    memory = _memory(tail(folder / "stderr.log") + b"\n" + tail(folder / "stdout.log"))
    if memory is None and signal == "KILL" and number(record, "oom_kills"):
        memory = "the kernel killed a process for memory while it ran"
    how = f"killed by signal {signal}" if signal else f"exit status {status}"
    if memory:
        return "out_of_memory", f"{how}: {memory}"
    return "failed", f"{how}{_last_words(folder / 'stderr.log')}"


def _last_words(log: Path) -> str:
    """Return the last line of a log, as the end of a sentence."""
    lines = tail(log).decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f": {shown(last.strip(), 160)}" if last else ""


def _memory(log: bytes) -> str | None:
    from hpcbench.formats.failures import out_of_memory

    return out_of_memory(log)


def _has_mark(folder: Path, file: object, text: object) -> bool:
    """Look at the end of a log; never at one outside the case's folder, whatever a case.json says."""
    if not isinstance(file, str) or not isinstance(text, str) or Path(file).is_absolute() or ".." in Path(file).parts:
        return False
    return text.encode() in tail(folder / file)


def _job(record: Mapping[str, Any] | None) -> Job | None:
    try:
        return None if record is None else Job(record["host"], int(record["pid"]), int(record["birth"]), record["boot"])
    except (KeyError, TypeError, ValueError):
        return None


def number(record: Mapping[str, Any], key: str) -> float | None:
    """Return a number of a record that may hold anything."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) else None


def read_json(file: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none."""
    try:
        value = json.loads(file.read_bytes()) if file.is_file() else None  # a pipe would be waited for without end
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def tail(file: Path) -> bytes:
    """Read the last 64 KiB of a log; nothing where it cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL))
            return stream.read()
    except OSError:
        return b""
