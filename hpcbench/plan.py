"""Axes, sweeps and cases: from what a person asks for to the exact list of what will run."""

from __future__ import annotations

import csv
import io
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any

from hpcbench.benchmark import Benchmark, Parameter, Value
from hpcbench.errors import UsageError, nearest
from hpcbench.site import Site

MAX_VALUES = 10_000
MAX_CASES = 100_000


@dataclass(frozen=True)
class Axis:
    """A parameter and the values it takes, in the order they were given."""

    name: str
    values: tuple[Value, ...]

    @classmethod
    def parse(cls, name: str, text: str, parameter: Parameter) -> Axis:
        """Read ``1,2,4``, ``1:8:*2`` (1, 2, 4, 8) or ``1:9:2`` (1, 3, 5, 7, 9); raises `UsageError`.

        Values are separated as in a CSV line: one that holds a comma or a quote stands in double quotes. Ranges
        include their end when they hit it, and exist for numbers only.
        """
        option = f"--{name.replace('_', '-')}"
        try:
            items = [text] if parameter.type == "words" else _split(text)
            if parameter.type not in ("str", "words", "path", "path_or_name") and not text.strip():
                raise ValueError("the list of values is empty")  # noqa: TRY301
            values: list[Value] = []
            for item in items:
                numbers = parameter.type in ("int", "float") and ":" in item
                values += (parameter.convert(v) for v in (_range(item, parameter) if numbers else [item]))
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from None
        return cls._checked(name, values)

    @classmethod
    def of(cls, name: str, values: Sequence[object], parameter: Parameter) -> Axis:
        """Make an axis from Python values; raises `UsageError`."""
        if not values:
            raise UsageError(f"{name}: the list of values is empty")
        try:
            return cls._checked(name, [parameter.convert(value) for value in values])
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None

    @classmethod
    def _checked(cls, name: str, values: Sequence[Value]) -> Axis:
        seen: set[Value] = set()
        for value in values:
            if value in seen:
                raise UsageError(
                    f"--{name.replace('_', '-')}: {value!r} stands twice; use --repeat to run a case again"
                )
            seen.add(value)
        if len(values) > MAX_VALUES:
            raise UsageError(f"--{name.replace('_', '-')}: {len(values)} values, more than {MAX_VALUES}")
        return cls(name, tuple(values))

    def __str__(self) -> str:
        return f"--{self.name.replace('_', '-')} {shlex.quote(_csv(self.values))}"


@dataclass(frozen=True)
class Sweep:
    """Which cases to run. ``str(sweep)`` is the command line that makes it, and `Sweep.parse` reads it back.

    `zips` names axes that advance together; `excluded` holds parameter values whose cases are left out.
    """

    axes: tuple[Axis, ...] = ()
    zips: tuple[tuple[str, ...], ...] = ()
    excluded: tuple[tuple[tuple[str, Value], ...], ...] = ()
    repeat: int = 1

    @classmethod
    def parse(cls, text: str, parameters: Mapping[str, Parameter]) -> Sweep:
        """Read the form that ``str()`` writes; raises `UsageError`."""
        try:
            words = shlex.split(text)
        except ValueError as error:  # a quote that is not closed
            raise UsageError(f"{text!r}: {error}") from None
        if len(words) % 2:
            raise UsageError(f"the option {words[-1]} needs a value")
        axes: dict[str, str] = {}
        zips, exclude, repeat = [], [], ""
        for option, value in zip(words[::2], words[1::2], strict=True):
            if not option.startswith("--"):
                raise UsageError(f"expected an option, found {option!r}")
            if option == "--zip":
                zips.append(value)
            elif option == "--exclude":
                exclude.append(value)
            elif (name := option[2:].replace("-", "_")) in axes or (name == "repeat" and repeat):
                raise UsageError(f"{option} is given twice")
            elif name == "repeat":
                repeat = value
            else:
                axes[name] = value
        if not re.fullmatch(r"[0-9]{0,9}", repeat):
            raise UsageError(f"--repeat: {repeat!r} is not a whole number")
        return cls.make(parameters, axes, zips=zips, exclude=exclude, repeat=int(repeat or 1))

    @classmethod
    def make(
        cls,
        parameters: Mapping[str, Parameter],
        axes: Mapping[str, str | Sequence[object]],
        *,
        zips: Sequence[str] = (),
        exclude: Sequence[str] = (),
        repeat: int = 1,
    ) -> Sweep:
        """Make a sweep from text (or, for axes, Python values), checked against a benchmark's parameters."""
        made = []
        for name, values in axes.items():
            if name not in parameters:
                raise UsageError(f"unknown parameter {name!r}{nearest(name, parameters)}")
            parameter = parameters[name]
            made.append(
                Axis.parse(name, values, parameter) if isinstance(values, str) else Axis.of(name, values, parameter)
            )
        if repeat < 1:
            raise UsageError(f"--repeat: {repeat} is below 1")
        sizes = {axis.name: len(axis.values) for axis in made}
        groups = [_zip_group(text, sizes) for text in zips]
        for group in groups:
            if len({sizes[name] for name in group}) > 1:
                lengths = ", ".join(f"{name} has {sizes[name]}" for name in group)
                raise UsageError(f"--zip: axes that advance together need equally many values: {lengths}")
        if len({name for group in groups for name in group}) < sum(len(group) for group in groups):
            raise UsageError("--zip: an axis stands in two groups")
        excluded = tuple(_condition(text, parameters) for text in exclude)
        return cls(tuple(made), tuple(groups), excluded, repeat)

    def points(self) -> Iterator[dict[str, Value]]:
        """Yield the parameter values of each case of one repeat, the last axis fastest."""
        zipped = {name: group for group in self.zips for name in group}
        by_name = {axis.name: axis for axis in self.axes}
        blocks: dict[tuple[str, ...], None] = {}  # in the order of each block's first axis
        for axis in self.axes:
            blocks.setdefault(zipped.get(axis.name, (axis.name,)))
        choices = [list(zip(*(by_name[name].values for name in block), strict=True)) for block in blocks]
        names = [name for block in blocks for name in block]
        for choice in itertools.product(*choices):
            yield dict(zip(names, itertools.chain.from_iterable(choice), strict=True))

    def __str__(self) -> str:
        words = [str(axis) for axis in self.axes]
        words += [f"--zip {','.join(group)}" for group in self.zips]
        for condition in self.excluded:
            words.append("--exclude " + shlex.quote(_csv([f"{name}={_text(value)}" for name, value in condition])))
        if self.repeat > 1:
            words.append(f"--repeat {self.repeat}")
        return " ".join(words)


@dataclass(frozen=True)
class Case:
    """One point of a sweep on one site. `name` is its folder in the run."""

    name: str
    site: str
    parameters: Mapping[str, Value]
    repeat: int
    beside: Beside | None = None


@dataclass(frozen=True)
class Beside:
    """Cases that are the same but for their endpoint, and are measured side by side: which of how many this one is."""

    group: str
    position: int
    count: int


@dataclass(frozen=True)
class Plan:
    """What a `submit` will run, in order: repeats are interleaved, so that drift does not look like an effect."""

    benchmark: Benchmark
    sites: tuple[Site, ...]
    sweep: Sweep
    cases: tuple[Case, ...] = field(repr=False)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the parameters that take more than one value."""
        return tuple(axis.name for axis in self.sweep.axes if len(axis.values) > 1)


def plan(benchmark: Benchmark, sites: Sequence[Site], sweep: Sweep) -> Plan:
    """Lay out every case of `sweep` on every site; raises `UsageError` where nothing would be left."""
    names = [site.name for site in sites]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--site: name one site or several different ones, found {', '.join(names) or 'none'}")
    points = list(itertools.islice(sweep.points(), MAX_CASES + 1))
    if len(points) * len(sites) * sweep.repeat > MAX_CASES:
        raise UsageError(f"the sweep has more than {MAX_CASES} cases")
    defaults = benchmark.defaults()
    full = [{**defaults, **point} for point in points]
    for condition in sweep.excluded:
        if not any(_matches(parameters, condition) for parameters in full):
            raise UsageError(f"--exclude: no case has {', '.join(f'{name}={value}' for name, value in condition)}")
    kept = [
        (point, parameters)
        for point, parameters in zip(points, full, strict=True)
        if not any(_matches(parameters, condition) for condition in sweep.excluded)
    ]
    if not kept:
        raise UsageError("--exclude: leaves no case to run")
    total = len(kept) * len(sites) * sweep.repeat
    varied = [axis.name for axis in sweep.axes if len(axis.values) > 1]
    cases: list[Case] = []
    for repeat in range(1, sweep.repeat + 1):
        for point, parameters in kept:
            first = len(cases) + 1
            together = benchmark.needs == "endpoint" and len(sites) > 1 and not parameters.get("blocked")
            for position, site in enumerate(sites):
                number = f"{len(cases) + 1:0{max(3, len(str(total)))}d}"
                name = "-".join(filter(None, (number, site.name if len(sites) > 1 else "", _label(point, varied))))
                beside = Beside(f"{first}", position, len(sites)) if together else None
                cases.append(Case(name, site.name, parameters, repeat, beside))
    return Plan(benchmark, tuple(sites), sweep, tuple(cases))


def _range(text: str, parameter: Parameter) -> list[Value]:
    """Expand ``first:last``, ``first:last:step`` or ``first:last:*factor``, exactly (in decimal)."""
    first, last, *rest = text.split(":")
    step = rest[0].strip() if rest else "1"
    if len(rest) > 1:
        raise ValueError(f"{text!r}: a range is first:last, first:last:step or first:last:*factor")
    if "_" in text or not text.isascii():  # what a single value may not have either
        raise ValueError(f"{text!r} is not a range of numbers")
    try:
        value, end, by = Decimal(first.strip()), Decimal(last.strip()), Decimal(step.removeprefix("*"))
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a range of numbers") from None
    # beyond 1e±300 no float follows, and int(Decimal("1e999999999")) would take all memory
    if not all(number.is_finite() and abs(number.adjusted()) <= 300 for number in (value, end, by)):
        raise ValueError(f"{text!r} is not a finite range")
    if step.startswith("*"):
        if not (by > 1 and 0 < value <= end):
            raise ValueError(f"{text!r}: a factor above 1 goes from a number above 0 upwards")
    elif by == 0 or (end - value) * by < 0:
        raise ValueError(f"{text!r}: the step never reaches the end")
    values: list[Value] = []
    while value <= end if by > 0 else value >= end:
        if len(values) == MAX_VALUES:
            raise ValueError(f"{text!r}: more than {MAX_VALUES} values")
        values.append(str(int(value)) if value == value.to_integral_value() else str(value))
        value = value * by if step.startswith("*") else value + by
    return [parameter.convert(item) for item in values]


def _zip_group(text: str, sizes: Mapping[str, int]) -> tuple[str, ...]:
    names = tuple(name.strip().replace("-", "_") for name in text.split(","))
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"--zip: name two or more different axes, as in --zip threads,batch; found {text!r}")
    for name in names:
        if name not in sizes:
            raise UsageError(f"--zip: {name!r} is not an axis of this sweep{nearest(name, sizes)}")
    return names


def _condition(text: str, parameters: Mapping[str, Parameter]) -> tuple[tuple[str, Value], ...]:
    """Read ``threads=8,batch=1``: a case is left out when all of it holds."""
    condition: dict[str, Value] = {}
    try:
        items = _split(text) if text else []
    except ValueError as error:
        raise UsageError(f"--exclude: {error}") from None
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--exclude: write name=value,..., found {item!r}")
        if name not in parameters:
            raise UsageError(f"--exclude: unknown parameter {name!r}{nearest(name, parameters)}")
        if name in condition:
            raise UsageError(f"--exclude: {name} stands twice; no case has two values: write two --exclude")
        try:
            condition[name] = parameters[name].convert(value)
        except ValueError as error:
            raise UsageError(f"--exclude: {name}: {error}") from None
    if not condition:
        raise UsageError("--exclude: the condition is empty")
    return tuple(condition.items())


def _matches(parameters: Mapping[str, Value], condition: Sequence[tuple[str, Value]]) -> bool:
    return all(parameters[name] == value for name, value in condition)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def _split(text: str) -> list[str]:
    """Read what `_csv` writes: one line of CSV; raises `ValueError`."""
    try:
        first, *rest = csv.reader(io.StringIO(text, newline=""), strict=True) if text else [[""]]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if rest or not first:
        raise ValueError(f"{text!r} is more than one line; a value with a line break stands in double quotes")
    return first


def _csv(values: Sequence[Any]) -> str:
    line = io.StringIO(newline="")
    # what the line ends with is also what the writer puts in quotes
    csv.writer(line, lineterminator="\r\n").writerow([_text(value) for value in values])
    return line.getvalue().removesuffix("\r\n")


def _label(point: Mapping[str, Value], names: Sequence[str], limit: int = 60) -> str:
    """Make the readable part of a folder's name: ``threads2-batch4``, safe whatever the values are."""
    words = [name + re.sub(r"[^A-Za-z0-9._+]", "_", _text(point[name])[:limit]) for name in names]
    return "-".join(words)[:limit].rstrip(".-")
