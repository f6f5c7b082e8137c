"""What is done with a run that exists, wherever its cases are: start, resume, ask, wait, cancel, fetch, clean."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcbench import process
from hpcbench.errors import HpcbenchError, RejectedError, RunError, SiteError, UsageError
from hpcbench.run import Journal, Run
from hpcbench.state import FAILED, FINAL, CaseState, refused
from hpcbench.submit import feeder
from hpcbench.submit import fetch as fetching
from hpcbench.submit.fetch import Fetched
from hpcbench.submit.remote import Remote

_TRIES = 3  # to bring back the last logs before `wait` ends without them


def start(run: Run) -> None:
    """Start what waits, everywhere: here by a feeder, elsewhere as many jobs as the site takes now.

    A site that cannot be reached does not keep the others from starting; its error is raised at the end.
    """
    if any(each.state not in FINAL | {"unknown", "running"} for each in run.states(_here(run))):
        feeder.launch(run)
    _each_site(run, lambda remote, journal: remote.send(journal, again=True))


def drive(run: Run, say: Callable[[str], object]) -> bool:
    """Run the cases of notebook services through the vendors' tools, where these are installed, and take the results.

    Tells whether all of them could be driven. Raises `RunError` with the tool's own words.
    """
    from hpcbench.submit import by_hand

    driven = True
    for site in _by_hand(run):
        archive = by_hand.drive(run, site, say)
        if archive is None:
            driven = False
        else:
            fetch_zip(run, archive)
    return driven


def resume(run: Run, *, failed: bool = False) -> int:
    """Start what never started, with `failed` also what failed; returns how many cases that is.

    A case that is started again keeps what its attempts before left, in folders of their own. Raises `RunError` while
    another process works on the run, `SiteError` where a site cannot be reached.
    """
    problems = refresh(run, send=False)
    if failed:
        _again(run)
    by_hand = set(_by_hand(run))
    here = set(_here(run))
    started = [
        each.case
        for each in run.states()
        if (each.state in ("planned", "submitting") or (each.state == "queued" and each.case in here) or refused(each))
        and run.case(each.case).get("site") not in by_hand
    ]
    if _here(run):
        with run.take():
            pass  # else somebody works on it
    start(run)
    for problem in problems.values():
        raise SiteError(problem)
    return len(started)


def _again(run: Run) -> None:
    """Make the failed cases ones that never started."""
    states = {each.case: each for each in run.states()}
    here = [case for case in _here(run) if states[case].state in FAILED]
    if here:
        with run.take() as journal:
            _set_aside(run, here)
            journal.append("again", cases=here)

    def there(remote: Remote, journal: Journal) -> None:
        cases = [case for case in remote.cases if states[case].state in FAILED and not refused(states[case])]
        if cases:
            remote.again(cases)
            _set_aside(run, cases)
            journal.append("again", site=remote.site, cases=cases)

    _each_site(run, there)
    for site in _by_hand(run):
        cases = [each for each in run.cases if run.case(each).get("site") == site and states[each].state in FAILED]
        if cases:
            with run.take(60.0, site) as journal:
                _set_aside(run, cases)
                journal.append("again", site=site, cases=cases)


def _set_aside(run: Run, cases: Sequence[str]) -> None:
    for case in cases:
        folder = (run.folder / case).absolute()
        done = subprocess.run(
            ["bash", "job.sh", "--set-aside"], cwd=folder, env={**os.environ, "HPCBENCH_CASE": str(folder)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise RunError(f"cannot put aside what {folder} holds: {done.stderr.strip()}")


def refresh(run: Run, *, send: bool = True, everything: bool = False) -> dict[str, str]:
    """Ask every site how its jobs stand, and with `send` give it what it has room for by now.

    Returns the sites that could not be asked, and why; what was known of their cases stands.
    """
    problems: dict[str, str] = {}
    # where all cases have ended there is nothing to ask, and still something to bring
    for site in _sites(run, every=everything):
        try:
            with run.take(60.0, site) as journal, Remote(run, site) as remote:
                remote.refresh(journal, everything=everything)
                if send and any(event.get("site") == site for event in run.journal()):
                    with contextlib.suppress(RejectedError):  # which the states of its cases tell
                        remote.send(journal)
        except SiteError as error:
            problems[site] = str(error)
        except RunError:  # another command asks just now, and writes down what it hears
            continue
    return problems


def states_now(run: Run, problems: Mapping[str, str]) -> list[CaseState]:
    """Return the states; unknown is what a site that did not answer would have to tell."""
    return [
        replace(each, state="unknown", reason=f"{problems[site]} (it was {each.state.replace('_', ' ')})")
        if (site := run.case(each.case).get("site", "")) in problems and each.state not in FINAL | {"planned"}
        else each
        for each in run.states()
    ]


def fetch(run: Run, *, limit: int = fetching.MAX_FILE) -> Fetched:
    """Bring back all that is new or changed at the sites; raises `SiteError` after trying them all."""
    total = Fetched()

    def one(remote: Remote, journal: Journal) -> None:
        got = remote.refresh(journal, everything=True, limit=limit)
        total.files.extend(got.files)
        total.size += got.size
        total.left.update(got.left)

    _each_site(run, one)
    return total


def fetch_zip(run: Run, archive: Path, *, limit: int = fetching.MAX_FILE) -> Fetched:
    """Take the results of a run that a notebook or Modal packed; raises `RunError` for what is no such file."""
    return fetching.unpack_zip(
        archive, run.folder, {case: run.case(case).get("bundle") or [] for case in run.cases}, limit
    )


def next_steps(run: Run) -> str:
    """Say what a person does next where a run is carried to its site by hand; nothing where nothing of it is left."""
    from hpcbench.submit import by_hand

    left = {run.case(each.case).get("site") for each in run.states() if each.state not in FINAL}
    return "\n".join(by_hand.next_steps(run, site) for site in _by_hand(run) if site in left)


def how_to_stop(run: Run) -> str:
    """Say what ends a run that a person has started at its site; nothing where there is no such site."""
    from hpcbench.submit import by_hand

    return "\n".join(by_hand.how_to_stop(run, site) for site in _by_hand(run))


def clean(run: Run) -> None:
    """Bring back what is left at the sites, then delete the run's folders there.

    Raises `RunError` while a case of the run may still need them, and where not all of it could be brought back.
    """
    got = fetch(run)
    open_cases = [each.case for each in run.states() if each.state not in FINAL | {"planned"}]
    if open_cases:
        raise RunError(f"{open_cases[0]} has not ended: cancel it first")
    large = [name for name, why in got.left.items() if why.startswith("has ")]
    if large:
        raise RunError(f"{large[0]} {got.left[large[0]]}: fetch it with a larger --max-size first")
    _each_site(run, lambda remote, journal: remote.clean(journal))


def cancel(run: Run, cases: Sequence[str] = (), patience: float = 40.0) -> list[CaseState]:
    """Cancel `cases` (all when empty), running or not; returns their states. Cancelling again changes nothing."""
    unknown = sorted(set(cases) - set(run.cases))
    if unknown:
        raise UsageError(f"run {run.name} has no case {unknown[0]!r}")
    wanted = set(cases or run.cases)
    here = wanted & set(_here(run))
    if here:
        _cancel_here(run, here, patience)

    def there(remote: Remote, journal: Journal) -> None:
        remote.refresh(journal)
        remote.cancel(journal, wanted)
        until, pause = time.monotonic() + patience, 0.5
        while any(each.state in ("queued", "running") for each in run.states(sorted(wanted & set(remote.cases)))):
            if time.monotonic() > until:
                return
            time.sleep(pause)
            pause *= 1.5
            remote.refresh(journal)

    _each_site(run, there)
    for site in _by_hand(run):
        with run.take(60.0, site) as journal:  # what a person has started there they stop there
            cases = [case for case in run.cases if case in wanted and run.case(case).get("site") == site]
            left = [each.case for each in run.states(cases) if each.state not in FINAL]
            if left:
                journal.append("cancelled", site=site, cases=left)
    return [each for each in run.states() if each.case in wanted]


def _cancel_here(run: Run, cases: set[str], patience: float) -> None:
    if run.busy():
        run.request_cancel(cases)
        process.until(
            lambda: not run.busy() or all(each.state in FINAL for each in run.states(sorted(cases))), patience
        )
    if not run.busy():
        with run.take() as journal:
            feeder.cancel(run, journal, cases)


def wait(run: Run, show: Callable[[list[CaseState], Mapping[str, str]], None] | None = None) -> list[CaseState]:
    """Wait until nothing more will happen to a run by itself; `show` is called with the states each time round.

    Sites are asked in one query each, every two seconds at first and every minute in the end; what ended is fetched.
    """
    settled: dict[str, CaseState] = {}
    pause, ask_at, ended, tries = 2.0, 0.0, 0, 0
    owed = False  # something ended, and its logs are not here yet
    problems: dict[str, str] = {}
    while True:
        busy = run.busy()  # before the states: what ends in between is then seen as ended
        if (owed or _sites(run)) and time.monotonic() >= ask_at:
            problems = refresh(run)
            before, ended = ended, sum(each.state in FINAL for each in run.states())
            owed = owed or ended > before
            if owed:
                problems |= refresh(run, send=False, everything=True)
                owed = bool(problems)
            tries = tries + 1 if owed else 0
            pause = min(pause * (1.2 if ended > before else 1.5), 60.0)
            ask_at = time.monotonic() + pause
        now = [settled.get(each.case) or each for each in states_now(run, problems)]
        settled |= {each.case: each for each in now if each.state in FINAL}
        if show is not None:
            show(now, problems)
        done = all(each.state in FINAL for each in now) or not (busy or _goes_on(run, now))
        if done and (not owed or tries >= _TRIES):
            return now
        time.sleep(1.0)


def _goes_on(run: Run, now: Sequence[CaseState]) -> bool:
    """Tell whether something still happens to a run that nobody here works on."""
    at = {each.case: str(run.case(each.case).get("site")) for each in now}
    remote = {site for site, place in run.places.items() if _is_remote(place)}
    stopped = {at[each.case] for each in now if refused(each)}  # nothing more is sent there
    return any(
        each.state == "running"
        or (
            at[each.case] in remote
            and each.state not in FINAL
            and not (each.state == "planned" and at[each.case] in stopped)
        )
        for each in now
    )


def _here(run: Run) -> list[str]:
    """Return the cases that are processes of this machine."""
    return [case for case in run.cases if run.case(case).get("site") not in run.places]


def _sites(run: Run, *, every: bool = False) -> list[str]:
    """Return the sites of a run that can be asked and, unless `every`, have something left to tell."""
    left = {run.case(each.case).get("site") for each in run.states() if every or each.state not in FINAL}
    return [site for site, place in run.places.items() if _is_remote(place) and site in left]


def _by_hand(run: Run) -> list[str]:
    """Return the sites of a run that a person carries it to."""
    return [site for site, place in run.places.items() if not _is_remote(place)]


def _is_remote(place: Mapping[str, Any]) -> bool:
    return place.get("scheduler") not in ("notebook", "modal")


def _each_site(run: Run, do: Callable[[Remote, Journal], None]) -> None:
    """Do something at every site of a run; raises the first error after all were tried."""
    errors: list[HpcbenchError] = []
    for site in [site for site, place in run.places.items() if _is_remote(place)]:
        try:
            with run.take(60.0, site) as journal, Remote(run, site) as remote:
                do(remote, journal)
        except (SiteError, RejectedError) as error:
            errors.append(error)
    if errors:
        raise errors[0]
