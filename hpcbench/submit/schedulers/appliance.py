"""A machine without a scheduler, reached by ssh: a feeder there runs the cases, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from hpcbench.state import State
from hpcbench.submit.schedulers.scheduler import Kind, Scheduler, Seen, script


class Appliance(Scheduler):
    """Processes on a machine, or on the user node of a Cerebras cluster."""

    name = "process"
    patience = 0
    gone = 0.0

    def __init__(self, name: str) -> None:
        self._kind = name

    def read(self, answer: str, jobs: Iterable[str]) -> dict[str, Seen]:
        """Read ``case|state|why``."""
        wanted, seen = set(jobs), dict[str, Seen]()
        for line in answer.splitlines():
            fields = line.split("|")
            if len(fields) == 3 and fields[0] in wanted:
                word = "planned" if fields[1] == "waiting" else fields[1]  # its feeder is gone: it can be sent again
                seen[fields[0]] = Seen(cast(State, word), fields[2])
        return seen

    def kind(self, count: int) -> Kind:  # noqa: ARG002
        """Every case is fed, and its job is named after it."""
        return "fed"

    def array_limit(self, facts: Mapping[str, str]) -> int:  # noqa: ARG002
        """All cases go at once: the feeder takes them one by one."""
        return 1_000_000

    def parent(self, job: str) -> str:
        """Return the job itself: there are no arrays, and a case's name may hold anything."""
        return job

    def files(self, place: Mapping[str, Any]) -> Mapping[str, bytes]:
        """Send the feeder along."""
        return {"feed.sh": (self._cases + script("feed")).encode(), "slots": f"{place.get('slots') or 1}\n".encode()}

    @property
    def script(self) -> str:
        """The functions for a machine, and what a Cerebras adds to them."""
        return script("common") + self._cases + script(self.name)

    @property
    def _cases(self) -> str:
        return script("cases") + (script("cerebras") if self._kind == "cerebras" else "")
