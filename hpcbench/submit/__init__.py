"""From a plan to jobs that run somewhere, and back: submit, resume, cancel, wait, fetch."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcbench import benchmark as benchmarks
from hpcbench import config, directives, process, provenance, render
from hpcbench import site as sites
from hpcbench.benchmark import Benchmark
from hpcbench.errors import ConfigError, HpcbenchError, RejectedError, RunError, SiteError, UsageError
from hpcbench.plan import Plan, Sweep, plan
from hpcbench.run import Journal, Run
from hpcbench.site import Site
from hpcbench.state import FAILED, FINAL, CaseState
from hpcbench.submit import feeder
from hpcbench.submit import fetch as fetching
from hpcbench.submit.fetch import Fetched
from hpcbench.submit.remote import Remote


def submit(
    site: str | Sequence[str] = "local",
    benchmark: str | None = None,
    axes: Mapping[str, str | Sequence[object]] | None = None,
    *,
    zips: Sequence[str] = (),
    exclude: Sequence[str] = (),
    repeat: int = 1,
    logs: Path | str = "logs",
    name: str | None = None,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
) -> Run:
    """Plan, render and start a sweep; returns at once, the sweep goes on in the background.

    `axes` maps a parameter to its values, typed or in the text form of the command line. With `dry_run` the run folder
    is written and nothing is started; `resume` would start it. Raises `ConfigError`, `UsageError` or `RunError`; then
    nothing was written, or the run is there and the error says that it could not be started.
    """
    names = [site] if isinstance(site, str) else list(site)
    chosen = [sites.load(each) for each in names]
    what = benchmark or next((each.benchmark for each in chosen if each.benchmark), None)
    if what is None:
        raise UsageError(f"site {names[0]} names no default benchmark: say which with --benchmark")
    loaded = benchmarks.load(what)
    sweep = Sweep.make(loaded.parameters, axes or {}, zips=zips, exclude=exclude, repeat=repeat)
    chosen = [_fitting(each, loaded) for each in chosen]
    planned = plan(loaded, chosen, sweep)
    _check_cores(planned)
    _check_paths(planned)
    run_name = name or f"{what}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not config.NAME.fullmatch(run_name):
        raise UsageError(f"--name: {run_name!r} is not a plain name (letters, digits, '.', '_', '-')")
    run = _create(planned, Path(logs), run_name, command, chosen=name is not None)
    if not dry_run:
        start(run)
    return run


def _create(planned: Plan, logs: Path, name: str, command: Sequence[str] | None, *, chosen: bool) -> Run:
    """Write the run; a name that was not asked for gets a number where it is taken."""
    for number in range(1, 100):
        free = name if number == 1 else f"{name}-{number}"
        if (logs / free).exists() and not chosen:
            continue
        bundles = render.render(planned, free)
        beside: dict[str, bytes] = {}
        for site in planned.sites:
            if site.by_hand:
                from hpcbench.submit import by_hand

                own = [bundle for bundle in bundles if bundle.case.site == site.name]
                beside |= by_hand.files(free, planned.benchmark.title, own, site)
        try:
            files = {bundle.case.name: bundle.files for bundle in bundles}
            return Run.create(logs, free, _record(planned, free, command), files, beside)
        except RunError:
            if chosen or not (logs / free).exists():
                raise
    raise RunError(f"{logs / name} exists already")


def start(run: Run) -> None:
    """Start what waits, everywhere: here by a feeder, elsewhere as many jobs as the site takes now.

    A site that cannot be reached does not keep the others from starting; its error is raised at the end.
    """
    if any(each.state not in FINAL | {"unknown", "running"} for each in run.states(_here(run))):
        feeder.launch(run)
    _each_site(run, lambda remote, journal: remote.send(journal))


def drive(run: Run, say: Callable[[str], object]) -> bool:
    """Run the cases of notebook services through the vendors' tools, where these are installed, and take the results.

    Tells whether all of them could be driven. Raises `RunError` with the tool's own words.
    """
    from hpcbench.submit import by_hand

    driven = True
    for site in [site for site, place in run.places.items() if not _is_remote(place)]:
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
    waiting = [each for each in run.states() if each.state in ("planned", "submitting", "queued")]
    started = [each.case for each in waiting if each.state != "queued" or each.case in set(_here(run))]
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
        cases = [case for case in remote.cases if states[case].state in FAILED]
        if cases:
            remote.again(cases)
            _set_aside(run, cases)
            journal.append("again", site=remote.site, cases=cases)

    _each_site(run, there)


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
                    remote.send(journal)
        except (SiteError, RejectedError) as error:
            problems[site] = str(error)
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
    """Say what a person does next where a run is carried to its site by hand; nothing where it is not."""
    from hpcbench.submit import by_hand

    return "\n".join(by_hand.next_steps(run, site) for site, place in run.places.items() if not _is_remote(place))


def clean(run: Run) -> None:
    """Delete the run's folders at the sites; refused while a case of the run may still need them."""
    refresh(run, send=False)
    open_cases = [each.case for each in run.states() if each.state not in FINAL | {"planned"}]
    if open_cases:
        raise RunError(f"{open_cases[0]} has not ended: cancel it first")
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
        until = time.monotonic() + patience
        while any(each.state in ("queued", "running") for each in run.states(sorted(wanted & set(remote.cases)))):
            if time.monotonic() > until:
                return
            time.sleep(0.5)
            remote.refresh(journal)

    _each_site(run, there)
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
    pause, ask_at, ended = 2.0, 0.0, -1
    problems: dict[str, str] = {}
    while True:
        busy = run.busy()  # before the states: what ends in between is then seen as ended
        if _sites(run) and time.monotonic() >= ask_at:
            problems = refresh(run)
            before, ended = ended, sum(each.state in FINAL for each in run.states())
            if ended > before >= 0 or (before < 0 < ended):
                problems |= refresh(run, everything=True)
            pause = 2.0 if ended != before else min(pause * 1.5, 60.0)
            ask_at = time.monotonic() + pause
        now = [settled.get(each.case) or each for each in states_now(run, problems)]
        settled |= {each.case: each for each in now if each.state in FINAL}
        if show is not None:
            show(now, problems)
        if all(each.state in FINAL for each in now) or not (busy or _goes_on(run, now)):
            return now
        time.sleep(1.0)


def _goes_on(run: Run, now: Sequence[CaseState]) -> bool:
    """Tell whether something still happens to a run that nobody here works on."""
    places = run.places
    there = {
        case
        for case in run.cases
        if run.case(case).get("site") in places and _is_remote(places[run.case(case)["site"]])
    }
    return any(each.state == "running" or (each.case in there and each.state not in FINAL) for each in now)


def _here(run: Run) -> list[str]:
    """Return the cases that are processes of this machine."""
    return [case for case in run.cases if run.case(case).get("site") not in run.places]


def _sites(run: Run, *, every: bool = False) -> list[str]:
    """Return the sites of a run that can be asked and, unless `every`, have something left to tell."""
    left = {run.case(each.case).get("site") for each in run.states() if every or each.state not in FINAL}
    return [site for site, place in run.places.items() if _is_remote(place) and site in left]


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


def _fitting(site: Site, benchmark: Benchmark) -> Site:
    """Check that a site has what a benchmark needs; one that measures an endpoint runs here."""
    name = benchmark.name
    if benchmark.needs == "endpoint":
        if site.endpoint is None:
            raise UsageError(f"benchmark {name} measures an endpoint, and site {site.name} has none")
        local = site.model_copy(update={"reach": "local", "scheduler": "process"})
        local._origin = site.origin
        return local
    if benchmark.needs == "cerebras" and site.scheduler != "cerebras":
        raise UsageError(f"benchmark {name} needs a Cerebras cluster, and site {site.name} is none")
    if site.endpoint is not None and site.here:
        raise UsageError(f"site {site.name} is an endpoint: benchmark {name} has no use for it")
    return site


def _check_cores(planned: Plan) -> None:
    for site in planned.sites:
        available = len(site.available_cores)
        for case in planned.cases:
            if site.here and case.site == site.name and not site.oversubscribe:
                wanted = directives.resources_of(planned.benchmark, case, site).cores or 1
                if wanted > available:
                    raise ConfigError(
                        f"case {case.name} asks for {wanted} cores and site {site.name} has {available}: "
                        "ask for fewer, or set oversubscribe: true in the site file",
                        site.origin.file,
                    )


def _check_paths(planned: Plan) -> None:
    names = [name for name, parameter in planned.benchmark.parameters.items() if parameter.type == "path"]
    for case in planned.cases:
        for name in names:
            value = case.parameters[name]
            if value and not Path(str(value)).exists():
                raise UsageError(f"--{name.replace('_', '-')}: there is no {value}")


def _record(planned: Plan, name: str, command: Sequence[str] | None) -> dict[str, Any]:
    benchmark = planned.benchmark
    return {
        "schema": "hpcbench/run/1",
        "run": name,
        "created": time.time(),
        "command": list(command or []),
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "description": benchmark.description.strip(),
        "sites": {each.name: each.title for each in planned.sites},
        "sweep": str(planned.sweep),
        "axes": list(planned.axes),
        "parameters": {
            key: {"help": parameter.help, "unit": parameter.unit} for key, parameter in benchmark.parameters.items()
        },
        "id": uuid.uuid4().hex,
        # sites that are this machine share it
        "place": {
            "slots": min(site.slots for site in planned.sites),
            "cores": list(dict.fromkeys(core for site in planned.sites for core in site.available_cores)),
        },
        "places": {site.name: _place(site) for site in planned.sites if not site.here},
        "machine": provenance.machine(),
        "software": provenance.software(planned.sites[0].python, planned.sites[0].env),
        "cases": [case.name for case in planned.cases],
    }


def _place(site: Site) -> dict[str, Any]:
    """Write what later commands need to know of a site; nothing of it is secret."""
    return {
        "scheduler": site.scheduler,
        "reach": site.reach if isinstance(site.reach, str) else site.reach.model_dump(exclude_defaults=True),
        "folder": site.folder,
        "slots": site.slots,
        "limits": site.limits.model_dump(exclude_none=True),
        "partition": site.job.partition or site.job.queue,
        "gpu_type": site.job.gpu_type,
        "seconds": site.job.seconds,
    }
