"""The stand-in's cluster: one file of jobs, which `cszoo` writes and `csctl` shows, labels and cancels."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import random
import re
import string
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

LABEL = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
DASHBOARD = "https://grafana.anl0.cerebras.internal/d/WebHNShVz/wsjob-dashboard?orgId=1&var-wsjob={}&from={}000&to=now"
_PRIORITIES = {"p1": "P1", "p2": "P2 (299)", "p3": "P3"}  # of the others no number was recorded


@dataclass
class Job:
    """A wsjob. `process` is the client's number and when it began, so that a dead client is seen."""

    name: str
    type: str
    workflow: str
    process: tuple[int, str]
    priority: str = "p2"
    labels: list[str] = field(default_factory=list)
    phase: str = "QUEUED"
    user: str = field(default_factory=getpass.getuser)
    created: float = field(default_factory=time.time)
    started: float = 0.0
    ended: float = 0.0

    def end(self, phase: str) -> None:
        """Give the job its last phase, once."""
        if self.phase not in ENDED:
            self.phase, self.ended = phase, time.time()

    @property
    def dashboard(self) -> str:
        """The address of the page about this job."""
        return DASHBOARD.format(self.name, int(self.created))


@dataclass
class Table:
    """What the cluster knows: its jobs, the workflows that have not ended, oldest first, and the compiles it keeps."""

    jobs: list[Job] = field(default_factory=list)
    workflows: list[tuple[str, tuple[int, str]]] = field(default_factory=list)
    compiles: dict[str, str] = field(default_factory=dict)

    def job(self, name: str) -> Job | None:
        """Return the job of that name."""
        return next((job for job in self.jobs if job.name == name), None)


@contextmanager
def table() -> Iterator[Table]:
    """Give the table, no one else has it meanwhile; what was changed is written when the block ends."""
    where = os.environ.get("CEREBRAS_STAND_IN")
    if not where:
        sys.exit("CEREBRAS_STAND_IN must name the folder that holds the stand-in's jobs")
    folder = Path(where)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "jobs.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        held = json.loads(file.read_text()) if file.exists() else {"jobs": [], "workflows": [], "compiles": {}}
        jobs = [Job(**{**job, "process": tuple(job["process"])}) for job in held["jobs"]]
        workflows = [(name, tuple(process)) for name, process in held["workflows"]]
        read = Table(jobs, workflows, held["compiles"])
        _bury(read)
        yield read
        aside = file.with_suffix(".new")
        aside.write_text(json.dumps(asdict(read), indent=1))
        aside.replace(file)


def identity(letters: int = 22) -> str:
    """Make the random part of a name such as ``wsjob-kgqvqqxnp9zvpmwulcbxuj``."""
    return "".join(random.choices(string.ascii_lowercase + string.digits, k=letters))


def process(number: int) -> tuple[int, str]:
    """Tell a process by its number and when it began; the latter is empty when it is gone."""
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return number, ""
    return number, "" if state in "ZX" else fields[18]


def shown(jobs: list[Job]) -> str:
    """Write the table of `csctl get jobs`: each column as wide as its widest word, two spaces between."""
    rows = [
        ["SESSION", "NAME", "TYPE", "PRIORITY", "AGE", "DURATION", "PHASE", "SYSTEMS", "USER", "LABELS", "WORKFLOW",
         "DASHBOARD"],
    ]  # fmt: skip
    now = time.time()
    for job in jobs:
        duration = _period((job.ended or now) - job.started) if job.started else ""
        systems = "cer-cs3-01" if job.type == "execute" and job.phase == "RUNNING" else ""
        rows.append([
            "job-operator", job.name, job.type, _PRIORITIES[job.priority], _period(now - job.created), duration,
            job.phase, systems, job.user, ",".join(job.labels), job.workflow, job.dashboard,
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)


def _period(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60}m"


def _bury(read: Table) -> None:
    """Cancel the jobs whose client has died: the cluster frees what nobody holds any more."""
    for job in read.jobs:
        if job.phase not in ENDED and process(job.process[0]) != job.process:
            job.end("CANCELLED")
    read.workflows = [each for each in read.workflows if process(each[1][0]) == each[1]]
