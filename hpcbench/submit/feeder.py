"""The feeder of a local run: the one background process that starts its cases, in order, as slots and cores come free.

submitit runs it (`launch`), so that it belongs to no terminal; it starts each case itself, because submitit's local
executor would start them all at once. Killing it loses nothing: a case lives in its own session, and another feeder
takes over what the journal and the cases' own files tell.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hpcbench import process, provenance
from hpcbench.errors import HpcbenchError, RunError
from hpcbench.process import Job
from hpcbench.render import JOB_SCRIPT
from hpcbench.run import Journal, Run
from hpcbench.state import FINAL, CaseState

_POLL = 1.0  # seconds between looks for a cancel request; the end of a case is noticed at once
_FOREVER = 60 * 24 * 3650  # submitit wants a time limit in minutes; the feeder ends by itself


def launch(run: Run) -> None:
    """Start a feeder for `run` in the background and return when it works; raises `RunError`."""
    folder = run.folder / "submitit"
    try:
        folder.mkdir(exist_ok=True)
        before = sum(event["event"] == "feeding" for event in run.journal())
        log = (folder / "feeder.log").open("ab")
    except OSError as error:
        raise RunError(f"cannot write in {run.folder}/: {error.strerror}") from None
    with log:
        # A process of its own, in a session of its own: submitit's controller stays in the session of whoever calls
        # it and holds its standard output, so a closed terminal would end it and a pipe would wait for it.
        done = subprocess.run(
            [sys.executable, "-m", "hpcbench.submit.feeder", str(run.folder.absolute())],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        raise RunError(f"{run.name} was written, but its background process did not start; see {folder}/feeder.log")
    if not process.until(lambda: sum(event["event"] == "feeding" for event in run.journal()) > before, 30.0):
        raise RunError(f"{run.name} was written, but its background process did not come up; see {folder}/")


def feed(folder: str, visible_gpus: str | None) -> None:
    """Work on a run until every case has ended or was cancelled. Runs inside the background process."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides every GPU from its local jobs
    if visible_gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus
    run = Run.load(Path(folder))
    with run.take() as journal:
        journal.append("feeding", pid=os.getpid(), host=process.host(), software=provenance.software())
        feeder = _Feeder(run, journal)
        with _machine(feeder.cancel_requested):
            feeder.work()
        journal.append("done")


@contextlib.contextmanager
def _machine(meanwhile: Callable[[], None]) -> Iterator[None]:
    """Wait until no other run of this user uses this machine: runs that overlap would measure each other."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hpcbench"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{process.host()}.lock").open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                meanwhile()
                time.sleep(_POLL)
        yield


def cancel(run: Run, journal: Journal, cases: set[str]) -> None:
    """Cancel `cases`, running or not, as the holder of the run's lock; what cannot be asked is left as it is."""
    for state in run.states():
        if state.case in cases and state.state not in FINAL | {"unknown"}:
            journal.append("cancelled", case=state.case)
            if state.job is not None:
                process.stop(state.job)
    run.forget_cancel(cases)


class _Feeder:
    """Which cases run, on which cores."""

    def __init__(self, run: Run, journal: Journal) -> None:
        self.run, self.journal = run, journal
        place = run.record["place"]
        self.slots: int = place["slots"]
        usable = process.cores()  # it may be fewer than when the run was made
        self.cores: list[int] = [core for core in place["cores"] if core in usable] or usable
        self.running: dict[str, Job] = {}
        self.pinned: dict[str, list[int]] = {}
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.waiting: list[str] = []
        for state in run.states():
            self._adopt(state)

    def _adopt(self, state: CaseState) -> None:
        """Take over a case as it stands: running ones are watched, only those that never started wait."""
        if state.state == "running" and state.job is not None:
            self.running[state.case] = state.job
            with contextlib.suppress(OSError, AttributeError):
                self.pinned[state.case] = sorted(os.sched_getaffinity(state.job.pid))
            self.journal.append("adopted", case=state.case, pid=state.job.pid)
        elif state.state == "lost" and state.job is not None:
            process.sweep(state.job)
        elif state.state not in FINAL | {"unknown"}:
            self.waiting.append(state.case)

    def work(self) -> None:
        while self.waiting or self.running:
            self.cancel_requested()
            while self.waiting and len({self._beside(case) for case in self.running}) < self.slots:
                if (cores := self._free(self.waiting[0])) is None:
                    break
                together = self._beside(self.waiting[0])  # they take turns, so they have the same cores
                for case in [case for case in self.waiting if self._beside(case) == together]:
                    self.waiting.remove(case)
                    self._start(case, cores)
            process.wait_any(self.running.values(), _POLL)
            for case, job in list(self.running.items()):
                child = self.children.get(case)
                if (child is not None and child.poll() is not None) or not process.alive(job):
                    self._end(case, job)

    def _beside(self, case: str) -> str:
        """Return what the cases that are measured side by side have in common; a case alone has its name."""
        beside = self.run.case(case).get("beside")
        return f"beside {beside.get('group')}" if isinstance(beside, dict) else case

    def _free(self, case: str) -> list[int] | None:
        """Choose the cores of a case: None when too many are taken, all where it asks for more than there are."""
        wanted = int((self.run.case(case).get("resources") or {}).get("cores") or 1)
        if wanted > len(self.cores):
            return list(self.cores) if not self.running else None
        taken = {core for case in self.running for core in self.pinned.get(case, [])}
        free = [core for core in self.cores if core not in taken]
        return free[:wanted] if len(free) >= wanted else None

    def _start(self, case: str, cores: list[int]) -> None:
        self.journal.append("submitting", case=case, token=self.run.case(case).get("token"))
        child = _start_job(self.run.folder / case, cores)
        job = process.identify(child.pid) or Job(process.host(), child.pid, 0, "")
        self.journal.append(
            "started", case=case, host=job.host, pid=job.pid, birth=job.birth, boot=job.boot, cores=cores
        )
        self.running[case], self.pinned[case], self.children[case] = job, cores, child

    def _end(self, case: str, job: Job) -> None:
        child = self.children.pop(case, None)
        how = None
        if child is not None:
            status = child.wait()
            how = f"signal {-status}" if status < 0 else f"status {status}"
        first = self.run.states([case])[0]
        if first.state == "running" and first.job is not None and first.job != job:
            # an earlier feeder had started this case and was killed before it could say so
            self.running[case] = first.job
            self.journal.append("adopted", case=case, pid=first.job.pid)
            return
        process.sweep(job)
        self.journal.append("ended", case=case, how=how)
        del self.running[case]
        self.pinned.pop(case, None)

    def cancel_requested(self) -> None:
        """Carry out what someone wants cancelled."""
        requested = self.run.cancel_requested()
        if not requested:
            return
        cancel(self.run, self.journal, requested)
        self.waiting = [case for case in self.waiting if case not in requested]


def _start_job(folder: Path, cores: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start the job script in `folder`, pinned to `cores` where the system can; it outlives this process."""

    def pin() -> None:
        if cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    environment = {name: value for name, value in os.environ.items() if not name.startswith("SUBMITIT_")}
    return subprocess.Popen(
        ["bash", JOB_SCRIPT],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=pin,  # noqa: PLW1509 - the feeder has one thread
    )


def main(folder: str) -> None:
    """Hand `feed` to submitit; this process then ends and leaves submitit's controller without a terminal."""
    import submitit

    executor = submitit.LocalExecutor(folder=Path(folder) / "submitit")
    executor.update_parameters(timeout_min=_FOREVER)
    executor.submit(feed, folder, os.environ.get("CUDA_VISIBLE_DEVICES"))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except HpcbenchError as error:
        sys.exit(str(error))
