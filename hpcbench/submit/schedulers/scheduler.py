"""What the schedulers differ in: one interface, and the scripts that speak for them on a site."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from hpcbench.state import State

Kind = Literal["single", "array", "fed"]


@dataclass(frozen=True)
class Seen:
    """What a scheduler says of a job: our word for its state, and the scheduler's for why."""

    state: State
    reason: str = ""


class Scheduler(ABC):
    """One kind of scheduler.

    Its side on a site is ``scripts/<name>.sh``, functions that ``common.sh`` calls: `hb_facts` tells what it allows,
    `hb_send` submits a group and prints the job's id, `hb_find` looks for a job by its name, `hb_refusal` says what a
    failed submission means, `hb_query` asks for all jobs at once, `hb_cancel` ends some.
    """

    name: str
    patience: int  # seconds within which a job may still appear after whoever asked for it is gone
    gone: float = 60.0  # seconds that a job may be unknown to the scheduler before its case counts as lost

    @abstractmethod
    def read(self, answer: str, jobs: Iterable[str]) -> dict[str, Seen]:
        """Read the answer to `hb_query`: job → what is said of it; a job that is not known is not in it."""

    def facts_wanted(self, place: Mapping[str, str]) -> Sequence[str]:  # noqa: ARG002
        """Return the arguments of `hb_facts`."""
        return ()

    def array_limit(self, facts: Mapping[str, str]) -> int:  # noqa: ARG002
        """Return how many tasks an array may have by what `hb_facts` told; 1 where there are no arrays."""
        return 1

    def kind(self, count: int) -> Kind:
        """Tell what a group of so many cases is."""
        return "array" if count > 1 else "single"

    def array(self, count: int, running: int | None) -> str:
        """Write the indices of an array of `count` tasks, of which `running` may run at once."""
        return f"0-{count - 1}" + (f"%{running}" if running else "")

    def whole(self, jobs: Sequence[str], ending: Collection[str], of: Mapping[str, str | None]) -> list[str]:
        """Return what to cancel: an array as a whole where all of its tasks that are left are to end.

        `jobs` are those of the cases `ending`; `of` is the job of every case.
        """
        stay = {self.parent(job) for case, job in of.items() if job and case not in ending}
        return list(dict.fromkeys(job if self.parent(job) in stay else self.parent(job) for job in jobs))

    def parent(self, job: str) -> str:
        """Return the array that a task belongs to; a job that is none is itself."""
        return job.partition("_")[0]

    def files(self, place: Mapping[str, Any]) -> Mapping[str, bytes]:  # noqa: ARG002
        """Return the files, by name, that the scheduler's side needs beside the groups."""
        return {}

    @property
    def script(self) -> str:
        """The bash functions that run on the site."""
        return script("common") + script(self.name)


@lru_cache(maxsize=8)
def script(name: str) -> str:
    """Read one of the scripts that run on a site."""
    return (Path(str(resources.files("hpcbench.submit.schedulers"))) / "scripts" / f"{name}.sh").read_text(
        encoding="utf-8"
    )
