"""A benchmark: what is run. One folder with a `benchmark.yaml`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from hpcbench import config
from hpcbench.errors import ConfigError, UsageError, nearest

if TYPE_CHECKING:
    from hpcbench.site import Site

Value = bool | int | float | str

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# what a template may use beside the parameters, and the options of a sweep
RESERVED = frozenset({
    "benchmark", "case", "cores", "help", "exclude", "program", "python", "repeat", "run", "site", "zip",
})  # fmt: skip
# words of the template language: `{{ none }}` would not be the parameter
_TEMPLATE_WORDS = frozenset({"and", "else", "false", "if", "in", "is", "loop", "none", "not", "or", "self", "true"})


class Parameter(config.Model):
    """One parameter of a benchmark: its type, default, unit and limits."""

    # words: text with commas of its own, never a list; path_or_name: a path where there is such a file, else a name
    type: Literal["int", "float", "str", "words", "bool", "path", "path_or_name"]
    default: Value
    unit: str = ""
    help: str
    choices: list[Value] | None = None
    matches: str | None = None  # a regular expression that all of a text fits; `like` is an example
    like: str = ""
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _default_fits(self) -> Parameter:
        try:
            re.compile(self.matches or "")
        except re.error as error:
            raise ValueError(f"matches: not a regular expression: {error}") from None
        for key, values in (("choices", self.choices or ()), ("default", (self.default,))):
            try:
                for value in values:
                    self._typed(value) if key == "choices" else self.convert(value)
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        return self

    def convert(self, value: object) -> Value:
        """Return `value` (text, or already typed) as this parameter's type; raises `ValueError`."""
        converted = self._typed(value)
        if self.choices is not None and converted not in [self._typed(choice) for choice in self.choices]:
            raise ValueError(f"{value!r} is none of {', '.join(str(choice) for choice in self.choices)}")
        if self.matches is not None and not re.fullmatch(self.matches, str(converted)):
            raise ValueError(f"{value!r} is not like {self.like}")
        if isinstance(converted, int | float) and not isinstance(converted, bool):
            if self.min is not None and converted < self.min:
                raise ValueError(f"{converted} is below the least allowed, {self.min:g}")
            if self.max is not None and converted > self.max:
                raise ValueError(f"{converted} is above the most allowed, {self.max:g}")
        return converted

    def _typed(self, value: object) -> Value:
        if isinstance(value, str | os.PathLike) and config.UNFIT.search(str(value)):
            raise ValueError("holds a NUL or half a character, which no program can be given")
        if self.type == "bool":
            word = str(value).strip().lower()
            if word not in _WORDS:
                raise ValueError(f"{value!r} is neither true nor false")
            return _WORDS[word]
        if self.type in ("str", "words", "path", "path_or_name") and not isinstance(
            value, str | os.PathLike
        ):  # YAML's no, 0755, 1:30, 1.10
            raise ValueError(f"{value!r} is not text; quote it")
        if self.type == "path_or_name" and not Path(str(value)).expanduser().exists():
            return str(value)
        if self.type.startswith("path"):  # a job runs in its own folder, whoever asked for it in theirs
            try:
                return str(Path(str(value)).expanduser().absolute()) if value else ""
            except RuntimeError:
                raise ValueError(f"{value!r}: there is no such user") from None
        if self.type in ("str", "words"):
            return str(value)
        if isinstance(value, bool):
            raise ValueError(f"{value!r} is not a number")  # noqa: TRY004 - a wrong value, whatever its type
        try:
            if self.type == "int":
                return int(_plain(value))
            number = float(_plain(value))
        except ValueError:
            noun = "a whole number" if self.type == "int" else "a number"
            raise ValueError(f"{value!r} is not {noun}") from None
        if not math.isfinite(number):
            raise ValueError(f"{value!r} is not a finite number")
        return number


def _plain(value: object) -> str:
    text = str(value).strip()
    if "_" in text or not text.isascii():  # int() takes 1_000 and other scripts' digits; people mistype them
        raise ValueError
    return text


class End(config.Model):
    """The mark that a finished program leaves: `text` stands somewhere in the last lines of `file`."""

    file: str
    text: Annotated[str, Field(min_length=1, pattern=r"^[^\r\n]+$")]


class Resources(config.Model):
    """What a case needs of its site; text is a template over the parameters. The site gives what is left out.

    `cores` may be ``all``: where no scheduler deals them out, all that the machine has.
    """

    nodes: int | str | None = None
    gpus: int | str | None = None
    cores: int | str | None = None
    memory: str | None = None
    time: str | None = None


class Benchmark(config.FileModel):
    """What is run. `name` is the folder's name."""

    title: str
    description: str = ""
    parameters: dict[str, Parameter]
    program: str | None = None
    files: dict[str, str] = {}
    command: Annotated[list[str], Field(min_length=1)]
    env: dict[config.Variable, str] = {}
    resources: Resources = Resources()
    perf: bool = False
    logs: dict[str, str] = {}
    end: End | None = None
    headline: list[str] = []
    baseline: dict[str, Value] = {}
    invariant: list[str] = []
    require: dict[str, str] = {}
    needs: Literal["endpoint", "cerebras"] | None = None
    at_endpoints: str | None = None  # the benchmark that stands for this one at sites that are endpoints

    @property
    def name(self) -> str:
        """The name that `--benchmark` takes."""
        return self.origin.file.parent.name

    @property
    def folder(self) -> Path:
        """Where its templates lie."""
        return self.origin.file.parent

    def defaults(self) -> dict[str, Value]:
        """Return every parameter's default."""
        return {name: parameter.convert(parameter.default) for name, parameter in self.parameters.items()}

    def program_files(self) -> dict[str, Path]:
        """Return the files of the program by their names in a bundle: a file, or a folder that `python -m` runs.

        It stands in the benchmark's folder, else it is one of hpcbench's workloads. Raises `ConfigError`.
        """
        if self.program is None:
            return {}
        own = self.folder / self.program
        shipped = Path(str(resources.files("hpcbench.workloads"))) / self.program
        for place in () if self.program in ("", "..") else (own, shipped):
            if place.is_file():
                return {self.program: place}
            if (place / "__main__.py").is_file():
                return {f"{self.program}/{file.name}": file for file in sorted(place.glob("*.py"))}
        raise self.origin.error(f"program: there is no {self.program!r} beside this file", "program")


def load(name: str) -> Benchmark:
    """Read a benchmark by name, from ``./templates``, the user's configuration or the built-in ones."""
    return load_file(config.find("templates", "*/benchmark.yaml", name))


def load_for(name: str, sites: Iterable[Site]) -> Benchmark:
    """Read a benchmark by name: where the sites are endpoints, the one that stands for it there.

    Raises `UsageError` where only some of them are.
    """
    benchmark = load(name)
    if benchmark.at_endpoints is None:
        return benchmark
    endpoints: dict[bool, list[str]] = {True: [], False: []}
    for site in sites:
        endpoints[site.endpoint is not None and site.here].append(site.name)
    if not endpoints[True]:
        return benchmark
    if endpoints[False]:
        raise UsageError(
            f"benchmark {name} is another one at endpoints ({', '.join(endpoints[True])}) than at "
            f"{', '.join(endpoints[False])}: submit it apart, then report both"
        )
    form = load(benchmark.at_endpoints)
    if form.needs != "endpoint":
        raise benchmark.origin.error(f"at_endpoints: benchmark {form.name} measures no endpoint", "at_endpoints")
    return form


def load_file(file: Path) -> Benchmark:
    """Read and check one benchmark file; raises `ConfigError`."""
    # `command` and `files` go through the template engine, whose braces are not ours to expand
    benchmark = config.load(file, Benchmark, verbatim=frozenset({"command"}))
    if benchmark.needs == "endpoint":
        shared = config.load(Path(str(resources.files("hpcbench.templates"))) / "endpoint/parameters.yaml", _Shared)
        others = {name: each for name, each in shared.parameters.items() if name not in benchmark.parameters}
        whole = benchmark.model_copy(
            update={
                "parameters": {**benchmark.parameters, **others},
                "require": {**shared.require, **benchmark.require},
            }
        )
        whole._origin = benchmark.origin
        benchmark = whole
    _check(benchmark)
    return benchmark


class _Shared(config.FileModel):
    """Parameters that all benchmarks of a kind have, and what must hold of them."""

    parameters: dict[str, Parameter]
    require: dict[str, str] = {}


def load_all() -> dict[str, Benchmark | ConfigError]:
    """Read every benchmark on the search path; what cannot be read stands as its error."""
    benchmarks: dict[str, Benchmark | ConfigError] = {}
    for name, file in config.available("templates", "*/benchmark.yaml").items():
        try:
            benchmarks[name] = load_file(file)
        except ConfigError as error:
            benchmarks[name] = error
    return benchmarks


def _check(benchmark: Benchmark) -> None:
    """Check what one key says against another."""
    from hpcbench.formats import all_formats
    from hpcbench.metrics import COLUMNS
    from hpcbench.metrics import RESERVED as TABLE_COLUMNS

    error = benchmark.origin.error
    for name in benchmark.parameters:
        if not _NAME.fullmatch(name):
            raise error(f"parameter {name!r}: use small letters, digits and _", "parameters", name)
        if name in RESERVED | TABLE_COLUMNS:
            raise error(f"parameter {name!r}: hpcbench uses that name itself; choose another", "parameters", name)
        if name in _TEMPLATE_WORDS:
            raise error(f"parameter {name!r}: the template language has that word; choose another", "parameters", name)
    for name, value in benchmark.baseline.items():
        if name == "site":
            if not isinstance(value, str):
                raise error(f"baseline: site: {value!r} is not the name of a site", "baseline", name)
            continue
        if name not in benchmark.parameters:
            raise error(f"baseline: unknown parameter {name!r}{nearest(name, benchmark.parameters)}", "baseline", name)
        try:
            benchmark.parameters[name].convert(value)
        except ValueError as problem:
            if value != "first":
                raise error(f"baseline: {name}: {problem}", "baseline", name) from None
    for index, name in enumerate(benchmark.invariant):
        if name not in benchmark.parameters:
            raise error(
                f"invariant: unknown parameter {name!r}{nearest(name, benchmark.parameters)}", "invariant", index
            )
    for index, name in enumerate(benchmark.headline):
        if name not in COLUMNS:
            raise error(f"headline: unknown metric {name!r}{nearest(name, COLUMNS)}", "headline", index)
    for name, kind in benchmark.logs.items():
        if kind not in all_formats():
            raise error(f"logs: unknown format {kind!r}{nearest(kind, all_formats())}", "logs", name)
    end = {benchmark.end.file: "file"} if benchmark.end else {}
    for key, names in (("files", benchmark.files), ("logs", benchmark.logs), ("end", end)):
        for name in names:
            path = PurePosixPath(name)
            if not path.parts or path.is_absolute() or ".." in path.parts or str(path) != name:
                raise error(f"{key}: {name!r} is not a plain path inside the case's folder", key, end.get(name, name))
    program = benchmark.program
    if program is not None and (Path(program).name != program or len(os.fsencode(program)) > 255):
        raise error(f"program: {program!r} is not a plain file name", "program")
    benchmark.program_files()
