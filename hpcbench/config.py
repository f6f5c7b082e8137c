"""Files that a person writes: found on the search path, read from YAML into a typed model, mistakes named by line."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, PrivateAttr, ValidationError

from hpcbench.errors import ConfigError, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a site, benchmark, run: safe as a file name everywhere
MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # aliases counted each time they are used: a "billion laughs" file ends here
MAX_DIGITS = 400  # of a number or date: Python needs minutes for 1:1:1:... (base 60) and cannot print 0xfff...
UNFIT = re.compile(r"[\0\ud800-\udfff]")  # no file and no program can be given NUL or half a character

KeyPath = tuple[str | int, ...]


def _variable(name: str) -> str:
    # a job script has hb_... and IFS for itself; bash refuses to set the others
    if not re.fullmatch(r"(?!hb_|(IFS|UID|EUID|PPID|SHELLOPTS|BASHOPTS|BASH_VERSINFO)$)[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"a job cannot be given an environment variable of the name {name!r}")
    return name


Variable = Annotated[str, AfterValidator(_variable)]


@dataclass(frozen=True)
class Origin:
    """Where a model came from: its file, and the line of each key."""

    file: Path
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def error(self, message: str, *path: str | int) -> ConfigError:
        """Make the error for the value at `path`, on the line of the nearest key that the file has."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return ConfigError(message, self.file, self.lines[path[:end]])
        return ConfigError(message, self.file)


class Model(BaseModel):
    """Base of what a YAML file holds: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileModel(Model):
    """A model that is a whole file and remembers it, so that later checks can name the line too."""

    _origin: Origin = PrivateAttr(default=Origin(Path("<python>")))

    @property
    def origin(self) -> Origin:
        """The file and its lines."""
        return self._origin


FileModelT = TypeVar("FileModelT", bound=FileModel)


def search_path(kind: str) -> list[Path]:
    """Return the folders where `kind` (``sites``, ``templates`` or ``formats``) is looked up, the user's own first."""
    folders = [Path(kind).absolute()]
    with contextlib.suppress(RuntimeError):  # a user without a home, as in many containers
        folders.append(Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "hpcbench" / kind)
    return folders if kind == "formats" else [*folders, Path(str(resources.files(f"hpcbench.{kind}")))]


def available(kind: str, pattern: str) -> dict[str, Path]:
    """Return name → file of everything on the search path; `pattern` is ``*.yaml`` or ``*/benchmark.yaml``."""
    found: dict[str, Path] = {}
    for folder in search_path(kind):
        try:
            files = sorted(folder.glob(pattern))
        except OSError:  # a folder above it is closed to this user
            continue
        for file in files:
            name = file.parent.name if "/" in pattern else file.stem
            if NAME.fullmatch(name):
                found.setdefault(name, file)
    return dict(sorted(found.items()))


def find(kind: str, pattern: str, name: str) -> Path:
    """Return the file of `name`; raises `ConfigError` with the nearest name."""
    found = available(kind, pattern)
    if name not in found:
        noun = {"sites": "site", "templates": "benchmark"}[kind]
        raise ConfigError(f"unknown {noun} {name!r}{nearest(name, found)}")
    return found[name]


def load(file: Path, model: type[FileModelT], *, verbatim: frozenset[str] = frozenset()) -> FileModelT:
    """Read a YAML file into `model`, expanding ``${NAME}`` and its like (`expand`) from the environment.

    What stands under a top key in `verbatim` is left alone (shell text has its own ``${...}``). Raises `ConfigError`.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES >> 20} MiB", file)
    lines: dict[KeyPath, int] = {}
    try:
        loader = yaml.SafeLoader(data.decode("utf-8-sig"))
        try:
            root = loader.get_single_node()
            value = _construct(loader, root, file, lines, verbatim) if root else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(f"not valid YAML: {error.problem}", file, line) from None
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file, data.count(b"\n", 0, error.start) + 1) from None
    except yaml.reader.ReaderError as error:
        line = data.decode("utf-8-sig").count("\n", 0, error.position) + 1
        raise ConfigError(f"holds the control character {chr(error.character)!r}", file, line) from None
    except RecursionError:
        raise ConfigError("is nested too deeply (an alias inside itself?)", file) from None
    origin = Origin(file, lines)
    if not isinstance(value, dict):
        raise origin.error(f"expected keys and values, found {_kind(value)}")
    try:
        result = model.model_validate(value)
    except ValidationError as error:
        raise _explain(error, model, origin) from None
    result._origin = origin
    return result


def _construct(
    loader: yaml.SafeLoader, root: yaml.Node, file: Path, lines: dict[KeyPath, int], verbatim: frozenset[str]
) -> Any:
    """Build plain values from a YAML node tree, noting the line of every key."""
    count = 0
    missing: dict[str, str] = {}
    lacking: list[int] = []  # their lines

    def visit(node: yaml.Node, path: KeyPath) -> Any:
        nonlocal count
        count += 1
        line = node.start_mark.line + 1
        if count > MAX_NODES:
            raise ConfigError("holds too many values (an alias that repeats itself?)", file, line)
        lines.setdefault(path, line)
        if isinstance(node, yaml.MappingNode):
            table: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = key_node.start_mark.line + 1
                key = _scalar(loader, key_node, file)
                if not isinstance(key, str):
                    raise ConfigError(f"the key {key!r} is not text: quote it", file, line)
                if key in table:
                    raise ConfigError(f"the key {key!r} stands twice", file, line)
                lines[(*path, key)] = line
                table[key] = visit(value_node, (*path, key))
            return table
        if isinstance(node, yaml.SequenceNode):
            return [visit(child, (*path, index)) for index, child in enumerate(node.value)]
        value = _scalar(loader, node, file)
        if isinstance(value, str) and not verbatim.intersection(path[:1]):
            before = len(missing)
            value = expand(value, lambda message: ConfigError(message, file, line), missing)
            if len(missing) > before:
                lacking.append(line)
        return value

    whole = visit(root, ())
    if missing:
        title = str(whole.get("title", "")) if isinstance(whole, dict) else ""
        raise ConfigError(_missing(missing), file, lacking[0], missing=missing.values(), title=title)
    return whole


def _scalar(loader: yaml.SafeLoader, node: yaml.Node, file: Path) -> Any:
    """Build the value of a node that is neither keys and values nor a list."""
    line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
    if not isinstance(node, yaml.ScalarNode):  # not shown: its aliases may make it endless
        raise ConfigError("a key is not text", file, line)
    if kind != "str" and len(node.value) > MAX_DIGITS:
        raise ConfigError(f"a value of {len(node.value)} characters is too long for type {kind}", file, line)
    try:
        value = loader.construct_object(node)
    except (ValueError, LookupError, AttributeError):  # what PyYAML's constructors raise for `!!int ""` or 2024-13-45
        raise ConfigError(f"not valid YAML: {node.value!r} is not of type {kind}", file, line) from None
    if isinstance(value, str) and UNFIT.search(value):
        raise ConfigError("holds a NUL or half a character, which no program can be given", file, line)
    return value


def expand(text: str, error: Callable[[str], ConfigError], missing: dict[str, str]) -> str:
    """Replace ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?what it is}`` in `text`; ``$${`` is a plain ``${``.

    What has no value is noted in `missing`, with how to say so, so that all of them can be named at once.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name = match["name"]
        found = os.environ.get(name) or match["default"]
        if found is None:
            what = f" ({match['what'].strip()})" if match["what"] else ""
            missing[name] = name + what
            return ""
        if UNFIT.search(found):
            raise error(f"the environment variable {name} is not UTF-8 text")
        return found

    return re.sub(
        r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*)|:\?(?P<what>[^}]*))?\}", value, text
    )


def _missing(missing: Mapping[str, str]) -> str:
    """Name the environment variables that a file needs and this environment lacks, all in one sentence."""
    if len(missing) == 1:
        ((name, words),) = missing.items()
        empty = f"is empty; ${{{name}:-}} allows that" if name in os.environ else "is not set"
        return f"the environment variable {words} {empty}"
    return f"{len(missing)} environment variables are not set: {', '.join(missing.values())}"


def _explain(error: ValidationError, model: type[BaseModel], origin: Origin) -> ConfigError:
    """Turn pydantic's first complaint into one line that a person can act on."""
    # an unknown key first: it is often the one that is missing, misspelt
    first, *more = sorted(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    path = tuple(first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"unknown key {_dotted(path)!r}{nearest(str(path[-1]), _fields(model, path[:-1]))}"
    elif first["type"] == "missing":
        text = f"the key {_dotted(path)!r} is missing"
    else:
        while path and path not in origin.lines:  # pydantic adds the member of a union that it tried
            path = path[:-1]
        same = [first, *(each for each in more if each["loc"][: len(path)] == path)]
        more = [each for each in more if each not in same]
        messages = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in same)
        message = " or ".join(messages).replace("or Input should be", "or").replace("Input should be", "should be")
        found = first["input"]
        shown = f", found {found!r}" if isinstance(found, str | int | float | bool) else f", found {_kind(found)}"
        quote = "; quote it" if first["type"] == "string_type" and not isinstance(found, dict | list | None) else ""
        shown_path = _dotted(path) if _dotted(path).isprintable() else repr(_dotted(path))
        text = f"{shown_path}: {message}" + ("" if first["type"] == "value_error" else shown + quote)
    if more:
        text += f" (and {len(more)} more)"
    return origin.error(text, *path)


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)


def _fields(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that `model` allows at `path`."""
    annotation: Any = model
    for part in path:
        if get_origin(annotation) in (dict, list):  # a free key or an index
            annotation = get_args(annotation)[-1]
        else:
            fields = [found.model_fields for found in _models(annotation)]
            annotation = next((known[str(part)].annotation for known in fields if str(part) in known), None)
    return [name for found in _models(annotation) for name in found.model_fields]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names: dict[type, str] = {dict: "keys and values", list: "a list", str: "text"}
    return names.get(type(value), type(value).__name__)
