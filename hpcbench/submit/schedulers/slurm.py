"""Slurm: what squeue and sacct say, in hpcbench's words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hpcbench.state import State
from hpcbench.submit.schedulers.scheduler import Scheduler, Seen

# the states of squeue(1) and sacct(1)
_STATES: dict[str, State] = {
    "PENDING": "queued",
    "CONFIGURING": "queued",
    "REQUEUED": "queued",
    "REQUEUE_FED": "queued",
    "REQUEUE_HOLD": "queued",
    "SPECIAL_EXIT": "queued",
    "RESV_DEL_HOLD": "queued",
    "RUNNING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "RESIZING": "running",
    "COMPLETING": "running",
    "COMPLETED": "completed",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "PREEMPTED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "out_of_memory",
    "NODE_FAIL": "node_failure",
    "BOOT_FAIL": "node_failure",
    "FAILED": "failed",
}
_USUAL = {"None", "Resources", "Priority", "(null)", "NonZeroExitCode", "TimeLimit", "OutOfMemory", "NodeDown"}


class Slurm(Scheduler):
    """Slurm, from 20.11 on."""

    name = "slurm"
    patience = 15

    def read(self, answer: str, jobs: Iterable[str]) -> dict[str, Seen]:
        """Read ``job|task|state|reason`` of squeue, and ``sacct|job_task|state|exit code`` of what only sacct knows.

        ``sacct|silent`` says that it was asked and did not answer.
        """
        wanted, seen = set(jobs), dict[str, Seen]()
        for line in answer.splitlines():
            fields = line.split("|")
            if len(fields) != 4:
                continue
            if fields[0] == "sacct":
                _, job, word, code = fields
                first, _, rest = word.partition(" ")  # CANCELLED by 1000
                why = f"{first}{' ' + rest if rest else ''}, exit code {code}"
                told = Seen(_STATES.get(first, "unknown"), f"sacct: {why}")
            else:
                job = fields[0] if fields[1] == "N/A" else f"{fields[0]}_{fields[1]}"
                told = Seen(_STATES.get(fields[2], "unknown"), _reason(fields[2], fields[3]))
            if job in wanted and (fields[0] != "sacct" or job not in seen):
                seen[job] = told
        if "sacct|silent" in answer.splitlines():
            seen |= {job: Seen("unknown", "Slurm's accounting does not answer") for job in wanted - set(seen)}
        return seen

    def facts_wanted(self, place: Mapping[str, str]) -> Sequence[str]:
        """Ask for the limits of the site's partition."""
        return [place["partition"]] if place.get("partition") else []

    def array_limit(self, facts: Mapping[str, str]) -> int:
        """Return MaxArraySize: indices go from 0 to one below it."""
        limit = facts.get("MaxArraySize", "")
        return max(1, int(limit)) if limit.isdigit() else 1


def _reason(state: str, why: str) -> str:
    """Say what is worth saying: the state where it is not one of hpcbench's, and a reason that is not the usual one."""
    told = why.strip("()")
    words = [] if state in ("PENDING", "RUNNING", "COMPLETED", "COMPLETING") else [f"Slurm: {state}"]
    if told and told not in _USUAL:
        words.append("held by its user" if told == "JobHeldUser" else f"Slurm: {told}" if not words else told)
    return ", ".join(words)
