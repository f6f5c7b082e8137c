"""The run folder: what was planned, the journal of what was done, and the true state of every case.

logs/<run>/run.json        what was asked for and where (written once)
journal.jsonl   what hpcbench did, one JSON object a line; only holders of a lock append
lock            held by the one process that runs cases on this machine
lock.<site>     held by the one process that works on the jobs at a site
cancel/         an empty file for each case that someone wants cancelled
<case>/         the bundle; started.json and exit.json are the job's own word
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hpcbench import state
from hpcbench.errors import RunError, nearest
from hpcbench.state import CaseState, State, number, read_json

_CASE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}")


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    folder: Path
    record: Mapping[str, Any]
    _read: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The run's name, which is its folder's."""
        return self.folder.name

    @property
    def cases(self) -> list[str]:
        """Names of the cases, in the order they run."""
        return list(self.record["cases"])

    def case(self, name: str) -> dict[str, Any]:
        """Read a case's ``case.json``, once: it never changes."""
        if name not in self._read:
            self._read[name] = read_json(self.folder / name / "case.json") or {}
        return self._read[name]

    @classmethod
    def load(cls, folder: Path) -> Run:
        """Open a run folder; raises `RunError`."""
        record = read_json(folder / "run.json")
        if record is None or not isinstance(record.get("cases"), list):
            raise RunError(f"{folder} is not a run: it has no readable run.json")
        cases = record["cases"]
        if not all(isinstance(case, str) and _CASE_NAME.fullmatch(case) for case in cases):
            raise RunError(f"{folder}/run.json names a case that is not a plain folder name")
        return cls(folder, record)

    @classmethod
    def find(cls, name: str | None, logs: Path) -> Run:
        """Open the run of that name, folder or unique prefix; None means the latest. Raises `RunError`."""
        with contextlib.suppress(OSError):  # not every name is one that a file could have
            if name is not None and (Path(name) / "run.json").is_file():
                return cls.load(Path(name))
        found = sorted(file.parent for file in logs.glob("*/run.json") if not file.parent.name.startswith("."))
        if not found:
            raise RunError(f"there is no run in {logs}/")
        if name is None:
            runs = []
            for folder in found:
                with contextlib.suppress(RunError):  # a damaged one does not stand in the way of the latest
                    runs.append(cls.load(folder))
            if not runs:
                raise RunError(f"there is no readable run in {logs}/")
            return max(runs, key=lambda run: number(run.record, "created") or 0.0)
        exact = [folder for folder in found if folder.name == name]
        matches = exact or [folder for folder in found if folder.name.startswith(name)]
        if not matches:
            raise RunError(f"there is no run {name!r} in {logs}/{nearest(name, [folder.name for folder in found])}")
        if len(matches) > 1:
            raise RunError(f"{name!r} could be {', '.join(folder.name for folder in matches)}")
        return cls.load(matches[0])

    @classmethod
    def create(
        cls,
        logs: Path,
        name: str,
        record: Mapping[str, Any],
        bundles: Mapping[str, Mapping[str, bytes]],
        beside: Mapping[str, bytes] = MappingProxyType({}),
    ) -> Run:
        """Write a run folder whole or not at all, with the files `beside` the cases; raises `RunError`."""
        aside: Path | None = None
        try:
            logs.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=logs))
            aside.chmod(0o755)
            for case, files in bundles.items():
                (aside / case).mkdir()
                for file, content in files.items():
                    (aside / case / file).parent.mkdir(parents=True, exist_ok=True)
                    (aside / case / file).write_bytes(content)
            for file, content in beside.items():
                (aside / file).write_bytes(content)
            _write(aside / "run.json", (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
            planned = {"time": time.time(), "event": "planned", "cases": len(bundles)}
            _write(aside / "journal.jsonl", (json.dumps(planned) + "\n").encode())
            if (logs / name).exists():  # renaming onto an empty folder would succeed
                raise RunError(f"{logs / name} exists already")
            aside.rename(logs / name)
            _sync_folder(logs)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (logs / name).exists():
                raise RunError(f"{logs / name} exists already") from None
            raise RunError(f"cannot write the run in {logs}/: {error.strerror}") from None
        finally:
            if aside is not None and aside.exists():
                shutil.rmtree(aside, ignore_errors=True)
        return cls(logs / name, record)

    def journal(self) -> list[dict[str, Any]]:
        """Read the journal; a line cut short by a crash is left out."""
        events = []
        with contextlib.suppress(OSError):
            for line in (self.folder / "journal.jsonl").read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    event = json.loads(line)
                    if isinstance(event, dict) and isinstance(event.get("event"), str):
                        events.append(event)
        return events

    def states(
        self,
        cases: Sequence[str] | None = None,
        *,
        settled: Mapping[str, CaseState] = MappingProxyType({}),
    ) -> list[CaseState]:
        """Derive the state of `cases` (all), each from its files and the journal.

        Cases in `settled` are taken from there: whoever asks again and again need not have the ended ones derived
        anew.
        """
        events = state.by_case(self.journal())
        waiting: State = "queued" if self.busy() else "planned"
        wanted = self.cases if cases is None else cases
        return [settled.get(name) or self._state(name, events.get(name, []), waiting) for name in wanted]

    def _state(self, name: str, events: Sequence[Mapping[str, Any]], waiting: State) -> CaseState:
        folder, description = self.folder / name, self.case(name)
        place = self.places.get(str(description.get("site")))
        if place is not None:
            found = state.there(folder, name, description, events)
            by_hand = found.state == "planned" and place.get("scheduler") in ("notebook", "modal")
            return replace(found, reason=f"waits for hpcbench fetch {self.name} --from ZIP") if by_hand else found
        return state.here(folder, name, description, events, waiting)

    @property
    def places(self) -> dict[str, Any]:
        """The sites of this run that have a scheduler or are another machine, and how they are reached."""
        places = self.record.get("places")
        return places if isinstance(places, dict) else {}

    def busy(self) -> bool:
        """Tell whether a process works on this run now."""
        try:
            with (self.folder / "lock").open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: those who only ask do not see each other
        except BlockingIOError:
            return True
        except OSError:  # no lock yet, or a run that is only read here
            return False
        return False

    @contextlib.contextmanager
    def take(self, patience: float = 1.0, site: str = "") -> Iterator[Journal]:
        """Become the one process that works on this run, or on its jobs at `site`; raises `RunError` when another does.

        Tries for `patience` seconds, because `busy` holds the lock for an instant.
        """
        try:
            lock = (self.folder / (f"lock.{site}" if site else "lock")).open("ab")
        except OSError as error:
            raise RunError(f"cannot write in {self.folder}/: {error.strerror}") from None
        with lock:  # flock, not lockf: a lockf lock is lost as soon as this process closes any handle of the file
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise RunError(
                            f"another hpcbench works on {self.name}{'' if site else self._worker()}"
                        ) from None
                    time.sleep(0.05)
                except OSError as error:  # Lustre mounted without its flock option, for one
                    raise RunError(f"cannot lock {lock.name}: {error.strerror}") from None
            with Journal(self.folder / "journal.jsonl") as journal:
                yield journal

    def _worker(self) -> str:
        feeders = [event for event in self.journal() if event["event"] == "feeding"]
        return f" (process {feeders[-1].get('pid')} on {feeders[-1].get('host')})" if feeders else ""

    def request_cancel(self, cases: Iterable[str]) -> None:
        """Ask whoever works on the run to cancel `cases`: one file each, so that requests do not meet."""
        try:
            (self.folder / "cancel").mkdir(exist_ok=True)
            for case in cases:
                (self.folder / "cancel" / case).touch()
        except OSError as error:
            raise RunError(f"cannot write in {self.folder}/: {error.strerror}") from None

    def forget_cancel(self, cases: Iterable[str]) -> None:
        """Take back the request for `cases`: it was carried out."""
        for case in cases:
            (self.folder / "cancel" / case).unlink(missing_ok=True)

    def cancel_requested(self) -> set[str]:
        """Return the cases that someone wants cancelled."""
        try:
            return {file.name for file in (self.folder / "cancel").iterdir()} & set(self.cases)
        except OSError:
            return set()


class Journal:
    """The journal, open for appending. Each line is on disk before `append` returns."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("ab+", buffering=0)
        if self._stream.tell():  # a line that a crash cut short must not swallow the next one
            self._stream.seek(-1, os.SEEK_END)
            if self._stream.read(1) != b"\n":
                self._stream.write(b"\n")

    def append(self, event: str, **fields: Any) -> None:
        """Append an event, stamped with the time."""
        line = (json.dumps({"time": time.time(), "event": event, **fields}) + "\n").encode()
        fcntl.flock(self._stream, fcntl.LOCK_EX)  # a run on several sites has a writer for each
        try:
            if self._stream.write(line) != len(line):  # a full disk takes a part without a word
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._stream.fileno())
        finally:
            fcntl.flock(self._stream, fcntl.LOCK_UN)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _write(file: Path, content: bytes) -> None:
    """Write a file whole: aside, to disk, then in place."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(file)
    _sync_folder(file.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
