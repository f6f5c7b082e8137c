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

from hpcbench.benchmark import Benchmark
from hpcbench.config import UNFIT
from hpcbench.errors import ConfigError
from hpcbench.plan import Case, Plan
from hpcbench.site import Site

JOB_SCRIPT = "job.sh"
_OWN_FILES = frozenset({
    JOB_SCRIPT, "case.json", "measure.py", "started.json", "exit.json", "exit.json.tmp", ".usage", "perf.txt",
    "stdout.log", "stderr.log",
})  # fmt: skip
_VALUE = "\0"  # stands for a value where a template's text is read

# where bash does not read a quoted word as one, by what opened it
_PLACES = {
    "'": "inside single quotes", "$'": "inside single quotes", '"': "inside double quotes", "#": "inside a comment",
    "`": "inside backquotes", "${": "inside ${...}", "((": "inside arithmetic",
    "$[": "inside arithmetic",
}  # fmt: skip
_CODE = ("code", "(", "$(", "case", "`")
_HERE = re.compile(r"""<<(-?)[ \t]*((?:'[^'\n\0]*'|"[^"\n\0]*"|\\[^\n\0]|[^\s;&|()<>'"\\\0])*)""")
_CASE, _ESAC = re.compile(r"case\s"), re.compile(r"esac(?=[\s;&|)]|\Z)")
_COMMAND = re.compile(r"(?:^|[\n;&|({!]|\b(?:then|do|else|elif|if|while|until))[ \t]*$")  # what a command may follow


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
                text += _VALUE
                lines.append(line)
            elif kind == "data":
                text += part.replace(_VALUE, "")
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"template: {error.message}", file, error.lineno) from None
    if ending in (".sh", ".bash"):
        places, mend = _Bash(text).places(), "take it out, it is quoted by itself"
    else:
        places, mend = _data_places(text, ending), "make one value of it: {{ 'text' ~ value }}"
    for line, place in zip(lines, places, strict=True):
        if place:
            raise ConfigError(f"a value stands {place}; {mend}", file, line)


def _data_places(text: str, ending: str) -> Iterator[str]:
    """Yield for each value of a YAML or JSON template what is wrong with its place, or nothing."""
    parts = text.split(_VALUE)
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


class _Bash:
    """Reads a bash script as far as is needed to tell in what its values (NUL) stand.

    Keeps a stack of what is open, as in ``"$(a "${b:-'c'}")"``: a quote means something else in each.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.open = ["code"]  # besides the keys of _PLACES: ( and $( for what they open, case until its esac
        self.start = True  # a comment or keyword may begin here
        self.wrong = ""  # about what comes next
        self.bodies: list[tuple[str, bool, bool]] = []  # here-documents that begin on the next line

    def places(self) -> Iterator[str]:
        """Yield for each value what is wrong with its place, or nothing."""
        at = 0
        while at < len(self.text):
            began, self.start = self.start, False
            wrong, self.wrong = self.wrong, ""
            if self.text[at] == _VALUE:
                yield wrong or self._place(at)
                at += 1
            elif self.text[at] == "\n" and self.bodies and self.open[-1] in _CODE:
                end = self._skip_bodies(at + 1)
                yield from ["inside a here-document"] * self.text.count(_VALUE, at, end)
                at, self.start = end, True
            else:
                at += self._read(at, began)

    def _place(self, at: int) -> str:
        if "`" in self.open:
            return _PLACES["`"]
        # a number before < belongs to it; bash expands what follows >& twice, whatever the quotes
        redirects = self.text[at + 1 : at + 2] in ("<", ">") or re.search(r"[<>]&[ \t]*\Z", self.text[:at])
        return _PLACES.get(self.open[-1], "beside a redirection" if redirects else "")

    def _read(self, at: int, began: bool) -> int:
        """Read what stands at `at`; returns how many letters it takes."""
        stack, top, letter = self.open, self.open[-1], self.text[at]
        code = top in _CODE
        if letter == "`" and "`" in stack and self.text[at - 1] != "\\":  # whatever was opened inside
            del stack[stack.index("`") :]
        elif top == "#":
            if letter == "\n":
                stack.pop()
                return 0
        elif top == "'" or (top == "$'" and letter != "\\"):
            if letter == "'":
                stack.pop()
        elif letter == "\\":
            self.start = began and self.text[at + 1 : at + 2] == "\n"
            return self._unless_value(at, 2, "right after a backslash")
        elif letter == "$":
            self._join(at)
            return self._dollar(at)
        elif letter == '"' or (letter == "`" and "`" not in stack):
            stack.pop() if letter == top else stack.append(letter)
            self.start = letter == "`"
        elif letter == {"${": "}", "((": ")", "$[": "]", "$(": ")", "(": ")"}.get(top):
            stack.pop()
            self.start = top == "("
        elif letter == "'" and top != '"':  # a quote in "${x:-'}'}" and $(( ')' )) as well
            stack.append(letter)
        elif top == "((" and letter == "(":
            stack.append(top)
        elif code:
            return self._command(at, began)
        return 1

    def _dollar(self, at: int) -> int:
        if self.text.startswith("$((", at):
            self.open += ["((", "(("]
            return 3
        two = self.text[at : at + 2]
        if two in ("$(", "${", "$[") or (two == "$'" and self.open[-1] != '"'):
            self.open.append(two)
            self.start = two == "$("
            return 2
        return self._unless_value(at, 2 if two == "$$" else 1, "right after a $")

    def _join(self, at: int) -> None:
        """Take out the line continuations inside the operator at `at`, as bash does when it reads."""
        while (cut := self.text.find("\\\n", at + 1, at + 4)) > 0 and self.text[cut - 1] != "\\":
            self.text = self.text[:cut] + self.text[cut + 2 :]

    def _unless_value(self, at: int, step: int, wrong: str) -> int:
        if self.text[at + 1 : at + 2] != _VALUE:
            return step
        self.wrong = wrong
        return 1

    def _command(self, at: int, began: bool) -> int:
        """Read what is outside all quotes."""
        if self.text[at] in "<>(":
            self._join(at)
        text, letter = self.text, self.text[at]
        if began and letter == "#":
            self.open.append("#")
        elif began and text.startswith("((", at):
            self.open += ["((", "(("]
            return 2
        elif text.startswith("<<<", at):
            return 3
        elif text.startswith(("<((", ">(("), at):  # whose end bash looks for as it does for that of $((
            self.open += ["((", "(("]
            return 3
        elif match := _HERE.match(text, at):
            mark = re.sub(r"""['"\\]""", "", match[2])
            self.bodies.append((mark, bool(match[1]), mark != match[2]))
            if text[match.end() : match.end() + 1] == _VALUE:
                self.wrong = "in the end mark of a here-document"
            return len(match[0])
        elif began and _CASE.match(text, at) and _COMMAND.search(text, 0, at):
            self.open.append("case")
        elif began and self.open[-1] == "case" and _ESAC.match(text, at):
            self.open.pop()
        else:
            if letter == "(":
                self.open.append("(")
            self.start = letter in " \t\n;&|()<>"
        return 1

    def _skip_bodies(self, at: int) -> int:
        """Return where the here-documents end whose first line begins at `at`."""
        for mark, indented, literal in self.bodies:
            closed = False
            while at < len(self.text) and not closed:
                end = self.text.find("\n", at)
                # unless the document is taken literally, a backslash joins the next line
                while not literal and end > 0 and (end - len(self.text[at:end].rstrip("\\")) - at) % 2:
                    end = self.text.find("\n", end + 1)
                end = len(self.text) if end < 0 else end
                line = self.text[at:end]
                closed = (line.lstrip("\t") if indented else line) == mark
                at = end + 1
        self.bodies = []
        return min(at, len(self.text))


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
