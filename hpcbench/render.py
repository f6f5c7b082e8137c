"""Templates to files: a bundle is a pure function of its case, and every value arrives exactly as it was given."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpcbench.benchmark import Benchmark
from hpcbench.errors import ConfigError
from hpcbench.plan import Case, Plan
from hpcbench.site import Site

JOB_SCRIPT = "job.sh"
_OWN_FILES = frozenset({JOB_SCRIPT, "case.json", "measure.py", "started.json", "exit.json", "stdout.log", "stderr.log"})
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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

    Raises `ConfigError` with the template's file and line.
    """
    sites = {site.name: site for site in plan.sites}
    program = plan.benchmark.program_file()
    shared = {"measure.py": (Path(str(resources.files("hpcbench.workloads"))) / "measure.py").read_bytes()}
    if program is not None:
        shared[program.name] = program.read_bytes()
    return [Bundle(case, {**shared, **_case_files(plan, case, sites[case.site], run)}) for case in plan.cases]


def cores(benchmark: Benchmark, case: Case) -> int:
    """Return how many cores a case asks for."""
    wanted = benchmark.resources.cores
    if isinstance(wanted, str):
        text = _render(
            _PLAIN, wanted, benchmark.origin.file, dict(case.parameters), _line(benchmark, "resources", "cores")
        )
        if not text.strip().isdecimal():
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
    files: dict[str, bytes] = {}
    for target, source in benchmark.files.items():
        if target in _OWN_FILES or target == benchmark.program:
            raise benchmark.origin.error(f"files: {target!r} is a file of hpcbench's own", "files", target)
        files[target] = render_file(benchmark.folder / source, target, names).encode()
    command = [_argument(benchmark, names, ("command", index), item) for index, item in enumerate(benchmark.command)]
    environment = dict(site.env)
    for name, value in benchmark.env.items():
        environment[name] = _argument(benchmark, names, ("env", name), value)
    for name in environment:
        if not _VARIABLE.fullmatch(name):
            raise benchmark.origin.error(f"env: {name!r} is not the name of an environment variable", "env", name)
    token = f"hb-{run}-{case.name}"
    script = {
        "token": token,
        "command": Raw(shlex.join(command)),
        "environment": environment,
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
    value = _render(_PLAIN, text, benchmark.origin.file, names, _line(benchmark, *path))
    if "\0" in value:
        raise benchmark.origin.error("holds a NUL byte, which no program can be given", *path)
    return value


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
    if ending in (".sh", ".bash"):
        check_bash_template(source, template)
    text = _render(_ENVIRONMENTS[ending], source, template, names)
    if ending in (".yaml", ".yml", ".json"):
        try:
            yaml.safe_load(text) if ending != ".json" else json.loads(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(
                f"renders to invalid {ending[1:].upper()}: {str(error).splitlines()[0]}", template
            ) from None
    return text


def check_bash_template(source: str, file: Path) -> None:
    """Refuse ``{{ value }}`` where bash would not read a quoted word: inside quotes, comments and here-documents.

    The renderer quotes by itself; inside other quotes its own would end them, and the value would be read as code.
    """
    quote, word_start, here = "", True, ""
    pending_here = ""
    line_text = ""
    for line, kind, text in _PLAIN.lex(source):
        if kind == "variable_begin" and (quote or here):
            where = {"'": "single quotes", '"': "double quotes", "#": "a comment"}.get(quote, "a here-document")
            raise ConfigError(f"a value stands inside {where}; take it out, it is quoted by itself", file, line)
        if kind == "variable_begin":
            word_start = False
            line_text += "x"
        if kind != "data":
            continue
        escaped = False
        for letter in text:
            if letter == "\n":
                if here and line_text.strip() == here:
                    here = ""
                elif pending_here:
                    here, pending_here = pending_here, ""
                quote = "" if quote == "#" else quote
                line_text, word_start, escaped = "", True, False
                continue
            line_text += letter
            if here or quote == "#":
                continue
            if escaped:
                escaped = False
            elif letter == "\\" and quote != "'":
                escaped = True
            elif quote:
                quote = "" if letter == quote else quote
            elif letter in "'\"":
                quote = letter
            elif letter == "#" and word_start:
                quote = "#"
            elif match := re.search(r"(?<!<)<<-?\s*(['\"]?)(\w+)\1$", line_text):
                pending_here = match[2]
            word_start = letter in " \t;&|("


def _render(
    environment: jinja2.Environment, source: str, file: Path, names: Mapping[str, Any], line: int | None = None
) -> str:
    """Render text; `line` is where it stands in `file` when it is not the whole of it."""
    try:
        code = environment.compile(source, name=str(file), filename=str(file))
        template = environment.template_class.from_code(environment, code, environment.make_globals(None))
        return template.render(dict(names))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"template: {error.message}", file, line or error.lineno) from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"template: {error}", file, line or _template_line(error, file)) from None


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
    return repr(value) if isinstance(value, float) else str(value)


def _bash(value: object) -> str:
    return str(value) if isinstance(value, Raw) else shlex.quote(_plain(value))


def _yaml(value: object) -> str:
    if isinstance(value, jinja2.Undefined):
        return str(value)
    if isinstance(value, str):  # double quotes keep line breaks on one line, whatever the indentation
        return str(yaml.safe_dump(value, default_style='"', width=float("inf"), allow_unicode=True)).strip()
    return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"))).removesuffix("...\n").strip()


def _json(value: object) -> str:
    return str(value) if isinstance(value, jinja2.Undefined) else json.dumps(value, ensure_ascii=False)


def _environment(finalize: Callable[[object], str]) -> jinja2.Environment:
    # The files are not HTML: `finalize` quotes every value for the language of the file instead.
    return ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        finalize=finalize,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


_PLAIN = _environment(_plain)
_ENVIRONMENTS: dict[str, jinja2.Environment] = {
    **dict.fromkeys((".sh", ".bash"), _environment(_bash)),
    **dict.fromkeys((".yaml", ".yml"), _environment(_yaml)),
    ".json": _environment(_json),
    ".txt": _PLAIN,
}
