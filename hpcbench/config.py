"""Files that a person writes: found on the search path, read from YAML into a typed model, mistakes named by line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError

from hpcbench.errors import ConfigError, nearest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a site, benchmark, run: safe as a file name everywhere
MAX_BYTES = 1 << 20
MAX_NODES = 100_000  # aliases counted each time they are used: a "billion laughs" file ends here

KeyPath = tuple[str | int, ...]


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
    """Return the folders where `kind` (``sites`` or ``templates``) is looked up, the user's own first."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return [Path(kind).absolute(), home / "hpcbench" / kind, Path(str(resources.files(f"hpcbench.{kind}")))]


def available(kind: str, pattern: str) -> dict[str, Path]:
    """Return name → file of everything on the search path; `pattern` is ``*.yaml`` or ``*/benchmark.yaml``."""
    found: dict[str, Path] = {}
    for folder in search_path(kind):
        for file in sorted(folder.glob(pattern)):
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
    """Read a YAML file into `model`, expanding ``${NAME}`` and ``${NAME:-default}`` from the environment.

    Values of the keys in `verbatim` are left alone (shell text has its own ``${...}``). Raises `ConfigError`.
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
        loader = yaml.SafeLoader(data)
        try:
            root = loader.get_single_node()
            value = _construct(loader, root, file, lines, verbatim) if root else {}
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise ConfigError(f"not valid YAML: {error.problem}", file, line) from None
    except (yaml.YAMLError, RecursionError, UnicodeError, ValueError) as error:
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}", file) from None
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
                key = loader.construct_object(key_node, deep=True)
                line = key_node.start_mark.line + 1
                if not isinstance(key, str):
                    raise ConfigError(f"the key {key!r} is not text: quote it", file, line)
                if key in table:
                    raise ConfigError(f"the key {key!r} stands twice", file, line)
                lines[(*path, key)] = line
                table[key] = visit(value_node, (*path, key))
            return table
        if isinstance(node, yaml.SequenceNode):
            return [visit(child, (*path, index)) for index, child in enumerate(node.value)]
        value = loader.construct_object(node, deep=True)
        if isinstance(value, str) and not verbatim.intersection(path):
            return expand(value, lambda message: ConfigError(message, file, line))
        return value

    return visit(root, ())


def expand(text: str, error: Callable[[str], ConfigError]) -> str:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in `text`; ``$${`` is a plain ``${``."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        found = os.environ.get(match["name"]) or match["default"]
        if found is None:
            raise error(f"the environment variable {match['name']} is not set")
        return found

    return re.sub(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}", value, text)


def _explain(error: ValidationError, model: type[BaseModel], origin: Origin) -> ConfigError:
    """Turn pydantic's first complaint into one line that a person can act on."""
    first, *more = error.errors(include_url=False)
    path = tuple(first["loc"])
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        text = f"unknown key {key!r}{nearest(str(path[-1]), _fields(model, path[:-1]))}"
    elif first["type"] == "missing":
        text = f"the key {key!r} is missing"
    else:
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        found = first["input"]
        shown = f", found {found!r}" if isinstance(found, str | int | float | bool) else f", found {_kind(found)}"
        text = f"{key}: {message}" + ("" if first["type"] == "value_error" else shown)
    if more:
        text += f" (and {len(more)} more)"
    return origin.error(text, *path)


def _fields(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Return the keys that `model` allows at `path`."""
    annotation: Any = model
    for part in path:
        models = list(_models(annotation))
        known = next((m.model_fields[str(part)] for m in models if str(part) in m.model_fields), None)
        if known is not None:
            annotation = known.annotation
        elif models:  # a list index or a free key, already inside the one model there is
            annotation = models[0]
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
