"""From a sweep to a run: planned, rendered, written and started."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench import benchmark as benchmarks
from hpcbench import config, directives, provenance, render
from hpcbench import site as sites
from hpcbench.benchmark import Benchmark
from hpcbench.errors import ConfigError, RunError, UsageError
from hpcbench.plan import Plan, Sweep, plan
from hpcbench.run import Run
from hpcbench.site import Site
from hpcbench.submit import control


def submit(
    site: str | Sequence[str] = "local",
    benchmark: str | None = None,
    axes: Mapping[str, str | Sequence[object]] | None = None,
    *,
    zips: Sequence[str] = (),
    exclude: Sequence[str] = (),
    repeat: int = 1,
    job: Mapping[str, str] | None = None,
    logs: Path | str = "logs",
    name: str | None = None,
    dry_run: bool = False,
    command: Sequence[str] | None = None,
) -> Run:
    """Plan, render and start a sweep; returns at once, the sweep goes on in the background.

    `axes` maps a parameter to its values, typed or in the text form of the command line; `job` says keys of the sites'
    `job` anew, such as ``{"time": "02:00:00"}``. With `dry_run` the run folder
    is written and nothing is started; `resume` would start it. Raises `ConfigError`, `UsageError` or `RunError`; then
    nothing was written, or the run is there and the error says that it could not be started.
    """
    names = [site] if isinstance(site, str) else list(site)
    chosen = [sites.load(each) for each in names]
    what = benchmark or next((each.benchmark for each in chosen if each.benchmark), None)
    if what is None:
        raise UsageError(f"site {names[0]} names no default benchmark: say which with --benchmark")
    loaded = benchmarks.load_for(what, chosen)
    what = loaded.name
    sweep = Sweep.make(loaded.parameters, axes or {}, zips=zips, exclude=exclude, repeat=repeat)
    chosen = [sites.with_job(_fitting(each, loaded), job or {}) for each in chosen]
    for key in job or {}:
        if getattr(loaded.resources, key, None) is not None:
            raise UsageError(f"--job {key}: benchmark {what} says itself what each of its cases needs")
    planned = plan(loaded, chosen, sweep)
    _check_cores(planned)
    _check_paths(planned)
    run_name = name or f"{what}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not config.NAME.fullmatch(run_name):
        raise UsageError(f"--name: {run_name!r} is not a plain name (letters, digits, '.', '_', '-')")
    run = _create(planned, Path(logs), run_name, command, chosen=name is not None)
    if not dry_run:
        control.start(run)
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


def _fitting(site: Site, benchmark: Benchmark) -> Site:
    """Check that a site has what a benchmark needs; one that measures an endpoint runs here."""
    name = benchmark.name
    if benchmark.needs == "endpoint":
        if site.endpoint is None and not site.here:
            raise UsageError(f"benchmark {name} measures an endpoint, and site {site.name} has none")
        local = site.model_copy(update={"reach": "local", "scheduler": "process"})
        local._origin = site.origin
        return local
    if benchmark.needs == "cerebras" and site.scheduler != "cerebras":
        raise UsageError(f"benchmark {name} needs a Cerebras cluster, and site {site.name} is none")
    if site.scheduler == "cerebras" and benchmark.needs != "cerebras":
        raise UsageError(f"site {site.name} runs what needs a Cerebras cluster, and benchmark {name} does not")
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
        "places": {site.name: site.place() for site in planned.sites if not site.here},
        "machine": provenance.machine(),
        "software": provenance.software(planned.sites[0].python, planned.sites[0].env),
        "cases": [case.name for case in planned.cases],
    }
