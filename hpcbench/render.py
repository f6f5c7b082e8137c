"""Templates to files: a bundle is a pure function of its case, and every value arrives exactly as it was given."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpcbench import bash
from hpcbench.benchmark import Benchmark
from hpcbench.config import UNFIT
from hpcbench.errors import ConfigError, UsageError
from hpcbench.plan import Case, Plan
from hpcbench.site import Site

JOB_SCRIPT = "job.sh"
_OWN_FILES = frozenset({
    JOB_SCRIPT, "case.json", "measure.py", "started.json", "exit.json", "exit.json.tmp", ".usage", "perf.txt",
    "stdout.log", "stderr.log",
})  # fmt: skip


class Raw(str):
    """Text that a template takes as it stands: shell code of ours, or already quoted."""

    __slots__ = ()


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
    program = plan.benchmark.program_file()
    shared = {"measure.py": (Path(str(resources.files("hpcbench.workloads"))) / "measure.py").read_bytes()}
    if program is not None:
        if program.name in _OWN_FILES:
            raise plan.benchmark.origin.error(f"program: {program.name!r} is a file of hpcbench's own", "program")
        shared[program.name] = program.read_bytes()
    return [Bundle(case, {**shared, **_case_files(plan, case, sites[case.site], run)}) for case in plan.cases]


def cores(benchmark: Benchmark, case: Case) -> int:
    """Return how many cores a case asks for."""
    wanted = benchmark.resources.cores
    if isinstance(wanted, str):
        text = _render(
            _PLAIN, wanted, benchmark.origin.file, dict(case.parameters), _line(benchmark, "resources", "cores")
        )
        if not re.fullmatch(r"[0-9]{1,9}", text.strip()):
            raise benchmark.origin.error(f"resources.cores: {text!r} is not a whole number", "resources", "cores")
        wanted = int(text)
    if wanted < 1:
        raise benchmark.origin.error(f"resources.cores: {wanted} is below 1", "resources", "cores")
    return wanted


def _case_files(plan: Plan, case: Case, site: Site, run: str) -> dict[str, bytes]:
    benchmark = plan.benchmark
    names: dict[str, Any] = {
        **case.parameters,
        "benchmark": benchmark.name,
        "case": case.name,
        "cores": cores(benchmark, case),
        "program": benchmark.program or "",
        "python": site.interpreter,
        "repeat": case.repeat,
        "run": run,
        "site": site.name,
    }
    for condition, message in benchmark.require.items():
        verdict = _render(
            _PLAIN,
            f"{{{{ true if {condition} }}}}",
            benchmark.origin.file,
            names,
            _line(benchmark, "require", condition),
        )
        if verdict != "true":
            raise UsageError(f"case {case.name}: {message}")
    files: dict[str, bytes] = {}
    for target, source in benchmark.files.items():
        if target in _OWN_FILES or target == benchmark.program:
            raise benchmark.origin.error(f"files: {target!r} is a file of hpcbench's own", "files", target)
        files[target] = render_file(benchmark.folder / source, target, names).encode()
    command = [_argument(benchmark, names, ("command", index), item) for index, item in enumerate(benchmark.command)]
    environment = dict(site.env)
    for name, value in benchmark.env.items():
        if text := _argument(benchmark, names, ("env", name), value):  # empty: left as it is on the site
            environment[name] = text
    token = f"hb-{run}-{case.name}"
    script = {
        "token": token,
        "command": Raw(shlex.join(command)),
        "environment": {Raw(name): value for name, value in environment.items()},
        "setup": Raw(site.setup.rstrip()),
        "perf": benchmark.perf,
        "time_limit": site.job.seconds,
    }
    files[JOB_SCRIPT] = render_file(_templates() / "jobs" / "bash.sh.j2", JOB_SCRIPT, script).encode()
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
        "cores": names["cores"],
        "logs": benchmark.logs,
        "end": benchmark.end.model_dump() if benchmark.end else None,
        "headline": benchmark.headline,
        "baseline": benchmark.baseline,
        "invariant": benchmark.invariant,
    }
    files["case.json"] = (json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    return files


def _argument(benchmark: Benchmark, names: Mapping[str, Any], path: tuple[str | int, ...], text: str) -> str:
    """Render one word of a command; the whole word is quoted afterwards, so the value is never read by a shell."""
    return _render(_PLAIN, text, benchmark.origin.file, names, _line(benchmark, *path))


def render_file(template: Path, target: str, names: Mapping[str, Any]) -> str:
    """Render a template; how values are quoted follows from the ending of `target`. Raises `ConfigError`."""
    ending = Path(target).suffix
    if ending not in _ENVIRONMENTS:
        raise ConfigError(f"{target}: values can be quoted for {', '.join(sorted(_ENVIRONMENTS))} files only", template)
    try:
        source = template.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(f"cannot be read: {reason}", template) from None
    check_template(source, template, ending)
    text = _render(_ENVIRONMENTS[ending], source, template, names)
    if ending in (".yaml", ".yml", ".json"):
        try:
            yaml.safe_load(text) if ending != ".json" else json.loads(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                f"renders to invalid {ending[1:].upper()}: {str(error).splitlines()[0]}", template
            ) from None
    return text


@lru_cache(maxsize=256)
def check_template(source: str, file: Path, ending: str) -> None:
    """Refuse ``{{ value }}`` where a quoted value would not be read as one: inside quotes, comments, other text.

    The renderer quotes by itself; inside other quotes its own would end them, and the value would be read as code.
    Raises `ConfigError` with the template's line.
    """
    if ending not in (".sh", ".bash", ".yaml", ".yml", ".json"):
        return
    text, lines = "", []
    try:
        for line, kind, part in _PLAIN.lex(source):
            if kind == "variable_begin":
                text += bash.VALUE
                lines.append(line)
            elif kind == "data":
                text += part.replace(bash.VALUE, "")
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"template: {error.message}", file, error.lineno) from None
    if ending in (".sh", ".bash"):
        places, mend = bash.places(text), "take it out, it is quoted by itself"
    else:
        places, mend = _data_places(text, ending), "make one value of it: {{ 'text' ~ value }}"
    for line, place in zip(lines, places, strict=True):
        if place:
            raise ConfigError(f"a value stands {place}; {mend}", file, line)


def _data_places(text: str, ending: str) -> Iterator[str]:
    """Yield for each value of a YAML or JSON template what is wrong with its place, or nothing."""
    parts = text.split(bash.VALUE)
    whole = parts[0] + "".join(f'"hb value {index}"{part}' for index, part in enumerate(parts[1:]))
    if ending == ".json":
        found = {word[1:-1] for word in re.findall(r'"(?:[^"\\]|\\.)*"', whole)}
    else:
        try:
            tokens = [token for token in yaml.scan(whole) if isinstance(token, yaml.ScalarToken)]
            found = {token.value for token in tokens if token.style == '"'}
        except yaml.YAMLError:  # what it renders to is read as well
            found = {f"hb value {index}" for index in range(len(parts))}
    for index in range(len(parts) - 1):
        yield "" if f"hb value {index}" in found else "inside quotes, a comment or other text"


def _render(
    environment: jinja2.Environment, source: str, file: Path, names: Mapping[str, Any], line: int | None = None
) -> str:
    """Render text; `line` is where it stands in `file` when it is not the whole of it."""
    try:
        text = _compiled(environment, source, str(file)).render(dict(names))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"template: {error.message}", file, line or error.lineno) from None
    except Exception as error:  # noqa: BLE001 - what a template computes may fail in any way
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"template: {reason}", file, line or _template_line(error, file)) from None
    if UNFIT.search(text):
        raise ConfigError("template: gives a NUL or half a character, which no program can be given", file, line)
    return text


@lru_cache(maxsize=1024)
def _compiled(environment: jinja2.Environment, source: str, file: str) -> jinja2.Template:
    code = environment.compile(source, name=file, filename=file)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def _template_line(error: BaseException, file: Path) -> int | None:
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


def _line(benchmark: Benchmark, *path: str | int) -> int | None:
    return benchmark.origin.lines.get(path)


def _templates() -> Path:
    return Path(str(resources.files("hpcbench.templates")))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str | int | jinja2.Undefined):
        return str(value)
    raise TypeError(f"{type(value).__name__} is neither text nor a number")


def _bash(value: object) -> str:
    if isinstance(value, Raw):
        return str(value)
    # text always in quotes: a bare `A=1` or `if` would be read as code where a command begins
    return "'" + value.replace("'", "'\"'\"'") + "'" if isinstance(value, str) else _plain(value)


def _yaml(value: object) -> str:
    if isinstance(value, jinja2.Undefined):
        return str(value)
    if isinstance(value, str):  # double quotes keep line breaks on one line, whatever the indentation
        return str(yaml.safe_dump(str(value), default_style='"', width=float("inf"), allow_unicode=True)).strip()
    return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"))).removesuffix("...\n").strip()


def _json(value: object) -> str:
    return str(value) if isinstance(value, jinja2.Undefined) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _environment(finalize: Callable[[object], str], without: Sequence[str] = ()) -> jinja2.Environment:
    # The files are not HTML: `finalize` quotes every value for the language of the file instead.
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("random", *without):
        del environment.filters[name]
    del environment.globals["lipsum"]  # random as well: the same inputs must give the same bytes
    return environment


_PLAIN = _environment(_plain)
_ENVIRONMENTS: dict[str, jinja2.Environment] = {
    **dict.fromkeys((".sh", ".bash"), _environment(_bash)),
    **dict.fromkeys((".yaml", ".yml"), _environment(_yaml, without=["tojson"])),  # which would be quoted again
    ".json": _environment(_json, without=["tojson"]),
    ".txt": _PLAIN,
}
