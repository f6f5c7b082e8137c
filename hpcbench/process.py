"""Jobs as processes of this machine: told apart by number and birth, asked about, waited for, ended."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A job script that was started. A process number is used again; with its birth and boot it is unique."""

    host: str
    pid: int
    birth: int  # clock ticks after boot (Linux, /proc/PID/stat field 22); 0 where the system does not say
    boot: str


def host() -> str:
    """Return this machine's name, as job scripts write it."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", platform.node())


def cores() -> list[int]:
    """Return the processors this process may use, by the system's numbers: one of each physical core first.

    Two threads on one core's two halves would show a scaling that is not the program's.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    seen: dict[str, int] = {}
    rank = {}
    for core in usable:
        topology = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        with contextlib.suppress(OSError):
            siblings = topology.read_text()
            rank[core] = seen[siblings] = seen.get(siblings, -1) + 1
    return sorted(usable, key=lambda core: (rank.get(core, 0), core))


def identify(pid: int) -> Job | None:
    """Describe a running process so that it can be found again; None when it is gone."""
    birth = _birth(pid)
    return None if birth is None else Job(host(), pid, birth, _boot())


def alive(job: Job) -> bool | None:
    """Tell whether a job's process still runs; None when it is another machine's."""
    if job.host != host():
        return None
    if job.boot != _boot():
        return False
    birth = _birth(job.pid)
    return birth is not None and (job.birth in (birth, 0))


def wait_any(jobs: Iterable[Job], seconds: float) -> None:
    """Return when one of `jobs` has ended, or after `seconds`."""
    with contextlib.ExitStack() as stack:
        poll = select.poll()
        for job in jobs:
            try:
                descriptor = os.pidfd_open(job.pid)
            except (AttributeError, OSError):  # gone already, or a system without pidfd_open
                time.sleep(min(seconds, 0.1))
                return
            stack.callback(os.close, descriptor)
            poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)


def stop(job: Job, patience: float = 15.0) -> None:
    """End a job: asked first, which lets it write its exit record, then all that is left of its session is killed."""
    if alive(job):
        _signal(job.pid, signal.SIGTERM)
        until(lambda: not alive(job), patience)
    sweep(job)


def sweep(job: Job) -> None:
    """Kill whatever still runs in the session of an ended job, so that it cannot disturb the next."""
    if job.host != host() or job.boot != _boot():
        return
    for pid in _session(job):
        _signal(pid, signal.SIGKILL)
    until(lambda: not _session(job), 5.0)


def _session(job: Job) -> list[int]:
    """Return the live processes of the session that `job` leads or led."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        # younger than the job: a session number used again belongs to somebody else only if the leader lives
        if fields and int(fields[3]) == job.pid and int(fields[19]) >= job.birth and fields[0] not in "ZX":
            found.append(int(entry.name))
    leader = _birth(job.pid)
    return [] if leader is not None and leader != job.birth else found


def _birth(pid: int) -> int | None:
    """Return when a process began, in clock ticks after boot; 0 where the system does not say, None when it is gone."""
    if Path("/proc/self/stat").exists():
        fields = _stat(pid)
        return None if fields is None or fields[0] in "ZX" else int(fields[19])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return 0
    return 0


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name: state, parent, group, session, ... (proc(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()
    except OSError:
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def until(done: Callable[[], bool], seconds: float) -> bool:
    """Wait until `done()`, at most `seconds`; tells whether it came true."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
