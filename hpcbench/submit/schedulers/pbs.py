"""PBS: what qstat says, in hpcbench's words."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hpcbench.submit.schedulers.scheduler import Scheduler, Seen

_DELETED = 91  # the substate of a job that was ended by qdel, whether it ran or not
_MEMORY = {-26: "vmem", -27: "mem"}  # what Exit_status says where PBS ended a job for a limit
_TIME = {-28: "cput", -29: "walltime"}
_NODE = {-14, -20}  # a node of the job, or its first one, was lost
_JOB = re.compile(r'^(?P<blank>[ \t]*)"(?P<job>[0-9]+(?:\[[0-9]*\])?\.[^"]*)":[ \t]*\{', re.MULTILINE)
_VALUE = re.compile(r'^[ \t]*"(\w+)":[ \t]*(".*"|[^\s"{\[][^,\n]*),?$', re.MULTILINE)
# what PBS says of every job that ran, and says better elsewhere
_USUAL = re.compile(
    r"(Job (run|was sent for execution) at|Job Array Began at)\b.*?(\(.*\))?"
    r"( and (finished|failed|terminated|exceeded resource \w+))?"
)


class PBS(Scheduler):
    """OpenPBS and PBS Professional, from 19 on."""

    name = "pbs"
    # A qsub that was killed, or whose server hung, can leave a job that shows only once the server answers again. A
    # server that restarts takes some seconds; who submits next waits that long before it looks and sends once more.
    patience = 45

    def read(self, answer: str, jobs: Iterable[str]) -> dict[str, Seen]:
        """Read the JSON of one qstat after another; a job is known by what stands before the server's name, too."""
        found: dict[str, Seen] = {}
        for job, told in _told(answer):
            found[job] = found[_number(job)] = _seen(told)
        return {job: found.get(job) or found[_number(job)] for job in jobs if _number(job) in found}

    def facts_wanted(self, place: Mapping[str, str]) -> Sequence[str]:
        """Ask for the limits of the site's queue."""
        return [place["queue"]] if place.get("queue") else []

    def array_limit(self, facts: Mapping[str, str]) -> int:
        """Return the least of what server and queue allow an array, or the jobs of one user: each subjob is one."""
        limits = []
        for name, value in facts.items():
            if name.endswith("max_array_size") and value.isdigit():
                limits.append(int(value))
            if name.endswith("max_queued"):  # [u:PBS_GENERIC=20],[o:PBS_ALL=1000]
                limits += [int(each) for each in re.findall(r"(?:PBS_GENERIC|PBS_ALL)\s*=\s*([0-9]+)", value)]
        return max(1, min(limits)) if any(name.endswith("max_array_size") for name in facts) else 1

    def parent(self, job: str) -> str:
        """Return the array that a subjob belongs to: ``263[3].pbs1`` is one of ``263[].pbs1``."""
        return re.sub(r"\[[0-9]*\]", "[]", job, count=1)


def _number(job: str) -> str:
    return job.partition(".")[0]


def _told(answer: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every job of an answer and its attributes."""
    decoder, at = json.JSONDecoder(strict=False), answer.find("{")
    while at >= 0:
        try:
            document, end = decoder.raw_decode(answer, at)
        except (ValueError, RecursionError):
            # other versions write values that are no JSON, and an answer may be cut off: read it line by line
            end = (answer.find("\n}\n", at) + 1) or len(answer)
            yield from _lines(answer[at:end])
        else:
            shown = document.get("Jobs") if isinstance(document, dict) else None
            for job, told in shown.items() if isinstance(shown, dict) else ():
                if isinstance(told, dict):
                    yield job, told
        at = answer.find("{", end)


def _lines(text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    starts = list(_JOB.finditer(text))
    for start, after in zip(starts, [*starts[1:], None], strict=False):
        part = text[start.end() : after.start() if after else len(text)]
        own = "".join(line for line in part.splitlines(keepends=True) if _indent(line) <= len(start["blank"]) + 4)
        told = {name: value.strip('"') for name, value in _VALUE.findall(own)}
        if "job_state" in told:
            yield start["job"], told


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _seen(told: Mapping[str, Any]) -> Seen:
    """Say how a job stands. Values are of any type: qstat writes what looks like a number as one."""
    state, runs = str(told.get("job_state")), _whole(told.get("run_count")) or 0
    if state == "Q" and str(told.get("Hold_Types", "n")) != "n":
        state = "H"  # a subjob of an array that is held
    match state:
        case "Q" | "T":
            return Seen("queued", _joined("requeued" if runs else "", _words(told)))
        case "H":
            kinds = str(told.get("Hold_Types"))
            return Seen("queued", "held by its user" if kinds == "u" else "PBS: held by the system")
        case "W":
            until = told.get("Execution_Time")
            return Seen("queued", f"PBS: waits until {until}" if until else "PBS: waits for its input files")
        case "R" | "E" | "B":
            return Seen("running", f"requeued, run {runs}" if runs > 1 else "")
        case "S" | "U":
            return Seen("running", "PBS: suspended")
        case "F" | "X":
            seen = _ended(told)
            return Seen(
                seen.state,
                _joined(
                    seen.reason,
                    f"ran {runs} times" if runs > 1 else "",
                    "its output could not be delivered" if _whole(told.get("Stageout_status")) == 0 else "",
                ),
            )
    return Seen("unknown", f"PBS: state {state[:20]}")


def _ended(told: Mapping[str, Any]) -> Seen:
    """Say how a job ended. Only in these states is Exit_status its own: a queued one shows that of its last run."""
    status, comment = _whole(told.get("Exit_status")), str(told.get("comment", ""))
    if comment == "Subjob finished":
        # all there is of a subjob that was deleted before it ran; its Exit_status is that of another. A server that
        # keeps no history says so of every subjob that ended, but those leave an exit record
        return Seen("cancelled", "PBS: deleted before it ran")
    if _whole(told.get("substate")) == _DELETED:
        by = re.search(r"terminated by (\S+)$", comment)
        return Seen(
            "cancelled", "PBS: deleted" + (f" by {by[1]}" if by else " before it ran" if status is None else "")
        )
    if status is None:
        return Seen("failed", _words(told) or "PBS: it ended without having been started")
    why = _words(told)
    exceeded = re.search(r"exceeded resource (\w+)$", comment)
    limit = exceeded[1] if exceeded else _TIME.get(status) or _MEMORY.get(status)
    if limit in _TIME.values():
        return Seen("timeout", f"PBS: over its {limit}")
    if limit in _MEMORY.values():
        return Seen("out_of_memory", f"PBS: over its {limit}")
    if status in _NODE:
        return Seen("node_failure", why or f"PBS: its node was lost, Exit_status {status}")
    if status == 0:
        return Seen("completed")
    if status < 0:
        how = f"over its {limit}, " if limit else ""
        return Seen("failed", why or f"PBS: {how}Exit_status {status}")
    # a shell adds 128 to the signal that ended what it ran; PBS adds 256 to the one that it sent
    number = status - 256 if status > 255 else status - 128
    name = signal.Signals(number).name.removeprefix("SIG") if number in set(signal.Signals) else None
    how = f"killed by signal {name or number} through PBS" if status > 255 else f"exit status {status}"
    return Seen("failed", f"{how} (signal {name})" if name and status < 256 else how)


def _words(told: Mapping[str, Any]) -> str:
    """Return what PBS says of a job that is worth saying, on a line."""
    comment = " ".join(str(told.get("comment", "")).split())
    if not comment or _USUAL.fullmatch(comment):
        return ""
    if comment.startswith("Not Running: "):
        # how much there is now changes from one cycle of the scheduler to the next
        comment = re.sub(r" \(R: .*\)", "", comment.removeprefix("Not Running: ")).rstrip(".")
    return f"PBS: {comment[:200]}"


def _joined(*told: str) -> str:
    return ", ".join(filter(None, told))


def _whole(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
