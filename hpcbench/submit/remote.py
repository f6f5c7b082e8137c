"""The jobs of a run at one site: sent once, asked for in one query, cancelled, and their files brought back.

A site is told everything by scripts (``schedulers/scripts/*.sh``) over a transport, and each of the functions here
costs one round trip, two for sending, however many cases there are. What hpcbench does is in the journal before it is
done; what became of it is asked from the site: a group of cases whose sending was interrupted is looked for by its name
before it is sent again.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from hpcbench import site, state
from hpcbench.errors import ConfigError, RejectedError, RunError, SiteError
from hpcbench.metrics import shown
from hpcbench.render import JOB_SCRIPT, job_template
from hpcbench.run import Journal, Run
from hpcbench.site import Reach
from hpcbench.state import FINAL, CaseState
from hpcbench.submit import fetch
from hpcbench.submit.fetch import Answers, Fetched
from hpcbench.submit.reach import connect
from hpcbench.submit.reach.transport import Transport
from hpcbench.submit.schedulers import scheduler
from hpcbench.submit.schedulers.scheduler import Kind
from hpcbench.templating import render_file

_TIME = 10**9  # modification time of what is sent (2001): whatever a job writes is newer
_AT_ONCE = 2000  # groups sent by one command
_FULL_FOR = 30.0  # seconds after which a queue that had no room is tried again


@dataclass(frozen=True)
class Group:
    """Cases that are sent together: one job, an array whose tasks they are, or what a feeder is given."""

    name: str
    cases: tuple[str, ...]
    kind: Kind
    running: int | None = None  # tasks of the array that may run at once

    @property
    def token(self) -> str:
        """The part of the job's name that tells the group from others of the run."""
        return self.cases[0] if self.kind == "single" else self.name


class Remote:
    """One site's part of a run. Use it as a context manager: it closes the connection it opened."""

    def __init__(self, run: Run, site: str) -> None:
        self.run, self.site = run, site
        self.place = _place(run.places[site], site)
        reach = self.place["reach"]
        self.here = reach == "local"
        self.transport: Transport = connect(reach if self.here else Reach.model_validate(reach), site)
        self.scheduler = scheduler(self.place["scheduler"])
        self.cases = [case for case in run.cases if run.case(case).get("site") == site]

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    # ------------------------------------------------------------------------------------------------ sending

    def send(self, journal: Journal, *, new: bool = True, again: bool = False) -> None:
        """Send what waits, as much of it as the site allows, and settle what an interruption left open.

        With `new` false nothing is sent: what was interrupted is only looked for. What was refused is sent once more
        only with `again`; until then nothing goes after it. Raises `RejectedError` when the scheduler refuses a job,
        `SiteError` when it is not known what became of one.
        """
        unsettled = self._unsettled()
        new = new and (again or not self._refused()) and (again or not self._full_just_now())
        if not unsettled and not (new and self._waiting()):
            return
        folder, facts = self._prepare(journal)
        if unsettled:
            self._call_submit(journal, folder, unsettled, "send" if new and not self._by_submitit else "look")
        if not new:
            return
        largest = min(self._largest(facts), self._fitting())
        while largest:
            # an array over a limit that the site file does not state never fits, however empty the queue is
            refused = self._send_groups(journal, folder, largest)
            largest = len(refused.cases) // 2 if refused else 0

    def _send_groups(self, journal: Journal, folder: str, largest: int) -> Group | None:
        """Send what waits in arrays of up to `largest` tasks; returns the group for which there is no room now."""
        active = [each for each in self.run.states(self.cases) if each.state in ("queued", "running", "submitting")]
        groups = self._groups(self._waiting(), largest, active)
        at_once = 1 if self._last_full() else _AT_ONCE  # where there was no room, one tries whether there is
        while groups:
            part, groups = groups[:at_once], groups[at_once:]
            at_once = min(2 * at_once, _AT_ONCE)
            if self._by_submitit:
                refused = self._send_by_submitit(journal, part)
            else:
                for group in part:
                    journal.append("submitting", site=self.site, **_told(self.run, group))
                refused = self._call_submit(journal, folder, part, "send")
            if refused:
                return refused
        return None

    def _largest(self, facts: Mapping[str, str]) -> int:
        """Return how many tasks an array may have."""
        limit = (self.place.get("limits") or {}).get("array")
        most = self.scheduler.array_limit(facts)
        return most if limit is None else min(most, max(1, limit))

    def _fitting(self) -> int:
        """Return how many tasks an array may have to find room, by what was refused and what was accepted last."""
        fits: int | None = None
        for event in self.run.journal():
            if event.get("site") == self.site and isinstance(event.get("cases"), list):
                if event["event"] == "deferred" and event.get("full"):
                    fits = max(1, len(event["cases"]) // 2)
                elif event["event"] == "submitted" and fits is not None:
                    fits = 2 * max(fits, len(event["cases"]))
        return len(self.cases) if fits is None else fits

    def _last_full(self) -> Mapping[str, Any] | None:
        """Return the event of the scheduler having no room, unless it has taken something since."""
        latest: Mapping[str, Any] | None = None
        for event in self.run.journal():
            if event.get("site") == self.site and event["event"] == "submitted":
                latest = None
            elif event.get("site") == self.site and event["event"] == "deferred" and event.get("full"):
                latest = event
        return latest

    def _full_just_now(self) -> bool:
        """Tell whether there was no room lately, and no case of the run has ended since: asking again would annoy."""
        latest = self._last_full()
        return latest is not None and time.time() - latest["time"] < _FULL_FOR and latest.get("ended") == self._ended()

    def _ended(self) -> int:
        return sum(each.state in FINAL for each in self.run.states(self.cases))

    def _waiting(self) -> list[str]:
        """Return the cases that were never sent, or were refused."""
        return [each.case for each in self.run.states(self.cases) if each.state == "planned" or state.refused(each)]

    def _refused(self) -> bool:
        """Tell whether a job of this run was refused, and not sent again since."""
        return any(state.refused(each) for each in self.run.states(self.cases))

    @property
    def _by_submitit(self) -> bool:
        return self.here and bool(self.place["scheduler"] == "slurm")

    def _prepare(self, journal: Journal) -> tuple[str, dict[str, str]]:
        """Make the run's folder at the site; returns it and what the scheduler allows."""
        made = self._folder()
        base = str(Path(made).parent) if made else self.place["folder"]
        wanted = self.scheduler.facts_wanted(self.place)
        how = (
            "there" if made and not self.here else "new"
        )  # made once, it is never made again: it may be another host's
        answers = self._ask("hb_prepare", base, self.run.name, str(self.run.record.get("id")), how, *wanted)
        folder = next((words[0] for words in answers.said("folder") if words), None)
        if folder is None:
            raise SiteError(f"{self.transport.where}: no answer to the first command; {_last_words(answers)}")
        status, text = answers.texts.get("facts", (0, ""))
        if status != 0:  # sent without its limits, a sweep could go as the wrong jobs
            why = " ".join(answers.texts.get("facts-errors", (0, ""))[1].split())
            raise SiteError(f"the scheduler of {self.site} does not answer: {why or _last_words(answers)}")
        facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
        if folder != self._folder():
            journal.append("prepared", site=self.site, folder=folder)
        return folder, facts

    @property
    def cleaned(self) -> bool:
        """Whether what the run kept at the site was deleted on request."""
        return any(each["event"] == "cleaned" and each.get("site") == self.site for each in self.run.journal())

    def _folder(self) -> str | None:
        """Return the run's folder at the site, once it was made."""
        if self.here:
            return str(self.run.folder.absolute())
        made = [each for each in self.run.journal() if each["event"] == "prepared" and each.get("site") == self.site]
        return str(made[-1]["folder"]) if made else None

    def _unsettled(self) -> list[Group]:
        """Return the groups that were about to be sent when something happened."""
        events = state.by_case(self.run.journal())
        found: dict[str, Group] = {}
        for each in self.run.states(self.cases):
            if each.state == "submitting":
                latest = [event for event in events[each.case] if event["event"] == "submitting"][-1]
                group = Group(latest["group"], tuple(latest["cases"]), latest["kind"], latest.get("running"))
                found[group.name] = group
        return list(found.values())

    def _groups(self, waiting: Sequence[str], largest: int, active: Sequence[CaseState]) -> list[Group]:
        """Make groups of the cases that wait, in order, as many as the site's limits leave room for."""
        limits = self.place.get("limits") or {}
        room = len(waiting)
        if (most := limits.get("submitted")) is not None:
            room = min(room, max(0, most - len(active)))
        running = limits.get("running")
        number = 1 + sum(event["event"] == "submitting" for event in self.run.journal())
        groups: list[Group] = []
        taken = len(active)
        for _, same in groupby(waiting[:room], key=lambda case: _directives(self.run, case)):
            cases = list(same)
            for start in range(0, len(cases), largest):
                part = tuple(cases[start : start + largest])
                at_once = min(len(part), running) if running else len(part)
                if running and taken + at_once > running:
                    return groups  # the next command sends them, when these have ended
                taken += at_once
                throttle = running if running and running < len(part) else None
                groups.append(Group(f"g{number + len(groups):04d}", part, self.scheduler.kind(len(part)), throttle))
        return groups

    def _call_submit(self, journal: Journal, folder: str, groups: Sequence[Group], how: str) -> Group | None:
        """Send groups, or look for them, in one round trip; each outcome is in the journal as it comes.

        Returns the group for which there is no room now.
        """
        by_name = {group.name: group for group in groups}
        refused: list[str] = []
        unsure: list[str] = []
        full: list[Group] = []

        def on_line(words: list[str]) -> None:
            if len(words) < 2 or words[1] not in by_name:
                return
            what, group = words[0], by_name[words[1]]
            told = _told(self.run, group)
            said = " ".join(words[2:])
            if what in ("submitted", "adopted"):
                journal.append("submitted", site=self.site, adopted=what == "adopted", **{**told, "job": said})
            elif what == "rejected":
                journal.append("rejected", site=self.site, message=said, **told)
                refused.append(said)
            elif what in ("full", "none"):
                ended = {"full": True, "ended": self._ended()} if what == "full" else {}
                journal.append("deferred", site=self.site, message=said, **ended, **told)
                full.extend([group] if what == "full" else [])
            elif what == "unsure":
                unsure.append(said)
            else:
                return
            by_name.pop(group.name)

        self._ask(
            "hb_submit", folder, how, str(self.scheduler.patience), *by_name,
            data=self._archive(groups), on_line=on_line,
        )  # fmt: skip
        if refused:
            raise RejectedError(f"{self.site} refuses the job: {refused[0]}")
        if unsure:
            raise SiteError(f"the scheduler of {self.site} does not answer: {unsure[0]}")
        return full[0] if full else None

    def _send_by_submitit(self, journal: Journal, groups: Sequence[Group]) -> Group | None:
        """Submit groups on this login node; returns the one for which there is no room now."""
        from hpcbench.submit.schedulers import submitit_slurm

        for group in groups:
            told = _told(self.run, group)
            journal.append("submitting", site=self.site, **told)
            case, groups_folder = self.run.folder / group.cases[0], self.run.folder.absolute() / "groups"
            options = [f"--job-name={told['token']}"]
            if group.kind == "array":
                tasks = self.scheduler.array(len(group.cases), group.running)
                options += [f"--array={tasks}", f"--output=groups/{group.name}.%a.log"]
                (groups_folder / f"{group.name}.cases").write_text("".join(f"{each}\n" for each in group.cases))
            try:
                job = submitit_slurm.send(
                    self.run.folder.absolute() if group.kind == "array" else case.absolute(),
                    self._array_script(group)
                    if group.kind == "array"
                    else (case / JOB_SCRIPT).read_text(encoding="utf-8"),
                    options,
                    groups_folder / f"{group.name}.claim.1",
                )
            except submitit_slurm.NotSubmittedError as error:
                judged = self._ask("hb_judge", str(error.status), str(error))
                how = next((words[0] for words in judged.lines), "unsure")
                if how == "unsure":
                    raise SiteError(f"the scheduler of {self.site} does not answer: {error}") from None
                if how == "full":
                    journal.append("deferred", site=self.site, message=str(error), full=True, **told)
                    return group
                journal.append("rejected", site=self.site, message=str(error), **told)
                raise RejectedError(f"{self.site} refuses the job: {error}") from None
            (groups_folder / f"{group.name}.id").write_text(f"{job}\n")
            journal.append("submitted", site=self.site, **{**told, "job": job})
        return None

    def _archive(self, groups: Sequence[Group]) -> io.BytesIO:
        """Pack what the site needs for these groups: the bundles of their cases, and what each group is."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:

            def add(name: str, content: bytes) -> None:
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.mode = len(content), _TIME, 0o644
                archive.addfile(member, io.BytesIO(content))

            for group in groups:
                array = self.scheduler.array(len(group.cases), group.running) if group.kind == "array" else ""
                what = f"hb-{self.run.name}-{group.token}\t{group.cases[0]}\t{array}\n"
                add(f"groups/{group.name}.what", what.encode())
                add(f"groups/{group.name}.cases", "".join(f"{case}\n" for case in group.cases).encode())
                if group.kind == "array":
                    add(f"groups/{group.name}.sh", self._array_script(group).encode())
                for name, content in self.scheduler.files(self.place).items():
                    add(f"groups/{name}", content)
                for case in () if self.here else group.cases:
                    for file in self.run.case(case).get("bundle") or ():
                        add(f"new/{case}/{file}", (self.run.folder / case / file).read_bytes())
        packed.seek(0)
        return packed

    def _array_script(self, group: Group) -> str:
        """Write the script of an array: the directives that its cases share, and which case a task runs."""
        if group.kind != "array":
            return ""
        body = render_file(job_template("array"), JOB_SCRIPT, {"group": group.name})
        return "".join(f"{line}\n" for line in _directives(self.run, group.cases[0], every=True)) + body

    # ------------------------------------------------------------------------------------------------ asking

    def refresh(self, journal: Journal, *, everything: bool = False, limit: int = fetch.MAX_FILE) -> Fetched:
        """Ask how the jobs stand, and bring back their records, or with `everything` all that is new of their files.

        Raises `SiteError` when the site or its scheduler does not answer; the states are then as they were.
        """
        folder = self._folder()
        states = self.run.states(self.cases)
        if folder is None or self.cleaned:
            return Fetched()
        open_jobs = {each.case: each.job_id for each in states if each.state not in FINAL and each.job_id}
        jobs = list(dict.fromkeys(open_jobs.values()))
        if self.here and not jobs:
            return Fetched()
        mode = "none" if self.here else "all" if everything else "records"
        have = b"" if self.here else fetch.known(self.run.folder, self.cases)
        request = f"{len(jobs)}\n" + "".join(f"{job}\n" for job in jobs)
        answers = self._ask("hb_refresh", folder, mode, str(limit), data=request.encode() + have)
        fetched = Fetched()
        if answers.archive is not None:
            bundles = {case: self.run.case(case).get("bundle") or [] for case in self.cases}
            with answers.archive as archive:
                fetched = fetch.unpack(archive, self.run.folder, bundles, limit)
        fetched.left |= {
            shown(words[0].removeprefix("./"), 200): f"has {words[1]} bytes, more than {limit}"
            for words in answers.said("large")
            if len(words) == 2
        }
        for words in answers.said("left"):
            fetched.left[shown(" ".join(words), 200)] = "is not a plain file of a plain name"
        if jobs:
            status, text = answers.texts.get("query", (1, ""))
            if status != 0:
                why = " ".join(answers.texts.get("query-errors", (0, ""))[1].split())
                raise SiteError(f"the scheduler of {self.site} does not answer: {why or _last_words(answers)}")
            self._observe(journal, text, open_jobs)
        return fetched

    def _observe(self, journal: Journal, text: str, open_jobs: Mapping[str, str]) -> None:
        """Write into the journal what the scheduler says, where that is new."""
        seen = self.scheduler.read(text, open_jobs.values())
        before: dict[str, Any] = {}
        for event in self.run.journal():
            if event["event"] == "observed":
                before |= event.get("states", {})
            elif event["event"] in ("again", "submitting"):
                before = {case: told for case, told in before.items() if case not in event.get("cases", ())}
        told: dict[str, list[Any]] = {}
        for case, job in open_jobs.items():
            record = state.read_json(self.run.folder / case / "exit.json")
            word = seen.get(job)
            if word is None:
                entry = self._gone(before.get(case))
            else:
                over = record and word.state == "queued" and state.number(record, "ended")
                entry = [word.state, word.reason, *([over] if over else [])]
            if entry != before.get(case):
                told[case] = entry
        if told:
            journal.append("observed", site=self.site, states=told)

    def _gone(self, before: list[Any] | None) -> list[Any]:
        """Say what a job is that its scheduler no longer knows: lost, once its exit record had time to appear."""
        now = time.time()
        since = before[3] if before and len(before) == 4 else now
        if now - since < self.scheduler.gone:
            return ["unknown", "no longer in the queue, and its exit record is not there yet", None, since]
        return ["lost", "no longer known to the scheduler; it left no exit record"]

    # ------------------------------------------------------------------------------------------------ ending

    def cancel(self, journal: Journal, cases: Iterable[str]) -> None:
        """Cancel cases, whatever they do; what has ended stays as it is."""
        wanted = set(cases) & set(self.cases)
        states = {each.case: each for each in self.run.states(self.cases)}
        if any(states[case].state == "submitting" for case in wanted):
            self.send(journal, new=False)
            states = {each.case: each for each in self.run.states(self.cases)}
        left = [case for case in self.cases if case in wanted and states[case].state not in FINAL]
        jobs = list(dict.fromkeys(job for case in left if (job := states[case].job_id)))
        if left:
            journal.append("cancelled", site=self.site, cases=left)
        folder = self._folder()
        if not jobs or folder is None:
            return
        ending = self.scheduler.whole(jobs, left, {case: each.job_id for case, each in states.items()})
        answers = self._ask("hb_end", folder, data="".join(f"{job}\n" for job in ending).encode())
        status, _ = answers.texts.get("cancel", (1, ""))
        if status != 0:
            why = " ".join(answers.texts.get("cancel-errors", (0, ""))[1].split())
            raise SiteError(f"{self.site}: not everything could be cancelled: {why or _last_words(answers)}")

    def again(self, cases: Sequence[str]) -> None:
        """Put aside at the site what earlier attempts of cases left there; raises `RunError` where it was deleted."""
        folder = self._folder()
        if self.cleaned:
            raise RunError(f"{self.run.name} was cleaned at {self.site}: submit anew")
        if folder is not None and not self.here:
            self._ask("hb_again", folder, data="".join(f"{case}\n" for case in cases).encode())

    def clean(self, journal: Journal) -> None:
        """Delete the run's folder at the site."""
        folder = self._folder()
        if folder is not None and not self.here and not self.cleaned:
            self._ask("hb_clean", folder, str(self.run.record.get("id")))
            journal.append("cleaned", site=self.site)

    def _ask(self, function: str, *arguments: str, data: Any = b"", on_line: Any = None) -> Answers:
        """Call a function of the site's scripts."""
        answers = Answers(self.transport.where, on_line)
        script = f'{self.scheduler.script}\n"$@"\n'
        ended = self.transport.call(script, function, *arguments, data=data, sink=answers.feed)
        answers.check()
        if ended.status not in (0, 1):
            words = " ".join(ended.stderr.split())[-300:]
            raise SiteError(f"{self.transport.where}: bash ended with status {ended.status}: {words}")
        return answers


def _place(recorded: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return how to reach a site: as its file says by now, so that a mend counts; as it was where that is gone."""
    try:
        now = site.load(name).place()
    except ConfigError:
        return recorded
    # what job scripts were rendered from stays as it was
    now |= {key: recorded[key] for key in ("partition", "queue", "gpu_type", "seconds") if key in recorded}
    same = now["scheduler"] == recorded["scheduler"] and (now["reach"] == "local") == (recorded["reach"] == "local")
    return now if same else recorded


def _told(run: Run, group: Group) -> dict[str, Any]:
    token = f"hb-{run.name}-{group.token}"
    return {"group": group.name, "token": token, "kind": group.kind, "running": group.running,
            "cases": list(group.cases)}  # fmt: skip


def _directives(run: Run, case: str, *, every: bool = False) -> tuple[str, ...]:
    """Return the lines that begin a job script; unless `every`, without the job's name, which differs."""
    lines = []
    for line in _lines(run.folder / case / JOB_SCRIPT):
        if not line.startswith("#"):
            break
        if every or not line.startswith(("#SBATCH --job-name=", "#PBS -N ")):
            lines.append(line)
    return tuple(lines)


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as stream:
        for line in stream:
            yield line.rstrip("\n")


def _last_words(answers: Answers) -> str:
    for _, text in reversed(answers.texts.values()):
        if text.strip():
            return " ".join(text.split())[-300:]
    return "it said nothing"
