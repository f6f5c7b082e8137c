"""Templates to files: a bundle is a pure function of its case, and every value arrives exactly as it was given."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

from hpcbench import directives
from hpcbench.benchmark import Benchmark
from hpcbench.errors import UsageError
from hpcbench.plan import Case, Plan
from hpcbench.site import Site
from hpcbench.templating import PLAIN, Raw, render_file, render_text, template_folder

JOB_SCRIPT = "job.sh"
_OWN_FILES = frozenset({
    JOB_SCRIPT, "case.json", "measure.py", "started.json", "exit.json", "exit.json.tmp", ".usage", "perf.txt",
    "stdout.log", "stderr.log",
})  # fmt: skip


@dataclass(frozen=True)
class Bundle:
    """The rendered files of one case, by name."""

    case: Case
    files: Mapping[str, bytes]


def render(plan: Plan, run: str) -> list[Bundle]:
    """Render every case of a plan for the run of that name; the same inputs give the same bytes.

    Raises `ConfigError` with the template's file and line, `UsageError` for a case that the benchmark refuses.
    """
    sites = {site.name: site for site in plan.sites}
    shared = {"measure.py": (Path(str(resources.files("hpcbench.workloads"))) / "measure.py").read_bytes()}
    if plan.benchmark.program in _OWN_FILES:
        raise plan.benchmark.origin.error(f"program: {plan.benchmark.program!r} is a file of hpcbench's own", "program")
    shared |= {name: file.read_bytes() for name, file in plan.benchmark.program_files().items()}
    return [Bundle(case, {**shared, **_case_files(plan, case, sites[case.site], run, shared)}) for case in plan.cases]


def _case_files(plan: Plan, case: Case, site: Site, run: str, shared: Mapping[str, bytes]) -> dict[str, bytes]:
    benchmark = plan.benchmark
    asked = directives.resources_of(benchmark, case, site)
    names: dict[str, Any] = {
        **case.parameters,
        "benchmark": benchmark.name,
        "case": case.name,
        "cores": asked.cores or 1,
        "program": benchmark.program or "",
        "python": site.interpreter,
        "repeat": case.repeat,
        "run": run,
        "site": site.name,
    }
    for condition, message in benchmark.require.items():
        verdict = render_text(
            PLAIN,
            f"{{{{ true if {condition} }}}}",
            benchmark.origin.file,
            names,
            _line(benchmark, "require", condition),
        )
        if verdict != "true":
            raise UsageError(f"case {case.name}: {message}")
    files: dict[str, bytes] = {}
    for target, source in benchmark.files.items():
        if target in _OWN_FILES or PurePosixPath(target).parts[0] == benchmark.program:
            raise benchmark.origin.error(f"files: {target!r} is a file of hpcbench's own", "files", target)
        files[target] = render_file(benchmark.folder / source, target, names).encode()
    command = [_argument(benchmark, names, ("command", index), item) for index, item in enumerate(benchmark.command)]
    environment = dict(site.env)
    for name, value in benchmark.env.items():
        if text := _argument(benchmark, names, ("env", name), value):  # empty: left as it is on the site
            environment[name] = text
    token = f"hb-{run}-{case.name}"
    bundle = sorted({*files, *shared, JOB_SCRIPT, "case.json"})
    script = {
        "token": token,
        "bundle": bundle,
        "command": Raw(shlex.join(command)),
        "environment": {Raw(name): value for name, value in environment.items()},
        "setup": Raw(site.setup.rstrip()),
        "perf": benchmark.perf,
        "end": benchmark.end,
        "time_limit": directives.own_limit(asked.time, site),
    }
    head = directives.head(job_template(directives.head_name(site)), token, asked, site)
    files[JOB_SCRIPT] = (head + render_file(job_template("case"), JOB_SCRIPT, script)).encode()
    measured = site.endpoint if benchmark.needs == "endpoint" else None
    description = {
        "schema": "hpcbench/case/1",
        "run": run,
        "case": case.name,
        "site": site.name,
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "parameters": dict(case.parameters),
        "units": {name: parameter.unit for name, parameter in benchmark.parameters.items() if parameter.unit},
        "axes": list(plan.axes),
        "repeat": case.repeat,
        "token": token,
        "resources": asdict(asked),
        **({"endpoint": measured.model_dump(exclude_none=True)} if measured else {}),
        **({"beside": asdict(case.beside)} if case.beside else {}),
        "bundle": bundle,
        "logs": benchmark.logs,
        "end": benchmark.end.model_dump() if benchmark.end else None,
        "headline": benchmark.headline,
        "baseline": benchmark.baseline,
        "invariant": benchmark.invariant,
    }
    files["case.json"] = (json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    return files


def job_template(name: str) -> Path:
    """Return the template of a part of job scripts: the head for a scheduler, or the `case` that each runs."""
    return template_folder() / "jobs" / f"{name}.sh.j2"


def _argument(benchmark: Benchmark, names: Mapping[str, Any], path: tuple[str | int, ...], text: str) -> str:
    """Render one word of a command; the whole word is quoted afterwards, so the value is never read by a shell."""
    return render_text(PLAIN, text, benchmark.origin.file, names, _line(benchmark, *path))


def _line(benchmark: Benchmark, *path: str | int) -> int | None:
    return benchmark.origin.lines.get(path)
