"""From a plan to running jobs, and back: submit, resume, cancel, wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench import benchmark as benchmarks
from hpcbench import config, directives, process, provenance, render
from hpcbench import site as sites
from hpcbench.errors import ConfigError, RunError, UsageError
from hpcbench.plan import Plan, Sweep, plan
from hpcbench.run import Run
from hpcbench.state import FINAL, CaseState
from hpcbench.submit import feeder


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
    planned = plan(loaded, chosen, sweep)
    _check_cores(planned)
    _check_paths(planned)
    run_name = name or f"{what}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not config.NAME.fullmatch(run_name):
        raise UsageError(f"--name: {run_name!r} is not a plain name (letters, digits, '.', '_', '-')")
    run = _create(planned, Path(logs), run_name, command, chosen=name is not None)
    if not dry_run:
        feeder.launch(run)
    return run


def _create(planned: Plan, logs: Path, name: str, command: Sequence[str] | None, *, chosen: bool) -> Run:
    """Write the run; a name that was not asked for gets a number where it is taken."""
    for number in range(1, 100):
        free = name if number == 1 else f"{name}-{number}"
        if (logs / free).exists() and not chosen:
            continue
        bundles = {bundle.case.name: bundle.files for bundle in render.render(planned, free)}
        try:
            return Run.create(logs, free, _record(planned, free, command), bundles)
        except RunError:
            if chosen or not (logs / free).exists():
                raise
    raise RunError(f"{logs / name} exists already")


def resume(run: Run) -> int:
    """Start what never started; returns how many cases that is. Raises `RunError` while another process works on it."""
    with run.take():
        waiting = [state for state in run.states() if state.state not in FINAL | {"unknown"}]
    if waiting:
        feeder.launch(run)
    return sum(state.state != "running" for state in waiting)


def cancel(run: Run, cases: Sequence[str] = (), patience: float = 40.0) -> list[CaseState]:
    """Cancel `cases` (all when empty), running or not; returns their states. Cancelling again changes nothing."""
    unknown = sorted(set(cases) - set(run.cases))
    if unknown:
        raise UsageError(f"run {run.name} has no case {unknown[0]!r}")
    wanted = set(cases or run.cases)
    if run.busy():
        run.request_cancel(wanted)
        process.until(
            lambda: not run.busy() or all(s.state in FINAL for s in run.states() if s.case in wanted), patience
        )
    if not run.busy():
        with run.take() as journal:
            feeder.cancel(run, journal, wanted)
    return [state for state in run.states() if state.case in wanted]


def wait(run: Run, show: Callable[[list[CaseState]], None] | None = None, every: float = 1.0) -> list[CaseState]:
    """Wait until nothing more will happen to a run by itself; `show` is called with the states each time round."""
    settled: dict[str, CaseState] = {}
    while True:
        busy = run.busy()  # before the states: what ends in between is then seen as ended
        now = run.states(settled=settled)
        settled |= {state.case: state for state in now if state.state in FINAL}
        if show is not None:
            show(now)
        if all(state.state in FINAL for state in now) or not (busy or any(s.state == "running" for s in now)):
            return now
        time.sleep(every)


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
        # sites that are this machine share it
        "place": {
            "slots": min(site.slots for site in planned.sites),
            "cores": list(dict.fromkeys(core for site in planned.sites for core in site.available_cores)),
        },
        "machine": provenance.machine(),
        "software": provenance.software(planned.sites[0].python, planned.sites[0].env),
        "cases": [case.name for case in planned.cases],
    }
