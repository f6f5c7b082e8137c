"""Jinja templates to text: every value arrives as it was given, quoted for the language of the file it stands in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpcbench import bash
from hpcbench.config import UNFIT
from hpcbench.errors import ConfigError


class Raw(str):
    """Text that a template takes as it stands: shell code of ours, or already quoted."""

    __slots__ = ()


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
    text = render_text(_ENVIRONMENTS[ending], source, template, names)
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
        for line, kind, part in PLAIN.lex(source):
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


def render_text(
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


def template_folder() -> Path:
    """Return where hpcbench's own templates lie."""
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


def _directive(value: object) -> str:
    """Refuse what a scheduler would not read as one word of a directive."""
    text = _plain(value)
    if not re.fullmatch(r"[^\0-\x1f\x7f\"'\\\\#$`]{1,300}", text):
        raise ValueError(f"{text!r} cannot stand in a directive")
    return text


PLAIN = _environment(_plain)
DIRECTIVES = _environment(_directive)
_ENVIRONMENTS: dict[str, jinja2.Environment] = {
    **dict.fromkeys((".sh", ".bash"), _environment(_bash)),
    **dict.fromkeys((".yaml", ".yml"), _environment(_yaml, without=["tojson"])),  # which would be quoted again
    ".json": _environment(_json, without=["tojson"]),
    ".txt": PLAIN,
}
