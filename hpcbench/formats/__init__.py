r"""Log formats: one module each, which says what its lines look like and nothing else.

A module sets `FORMATS`, a tuple of `Format`; it is found by being in this folder. A user's own are YAML files
(`custom`). The engine that runs formats over files is `hpcbench.parse`.

A format is made of parts. Most are a `Line`: a regular expression, searched in one line, in which ``<loss>`` stands
for a number that fills the column ``loss``, ``<step_time ms>`` for one in milliseconds (columns are in SI units),
``<value:.6>`` for one printed with six decimals, ``<wall_time:clock>`` for a duration such as ``1:02:03.5`` or
``0m6.2s``, ``<time:stamp>`` for a date and time, ``<device:word>`` for a word, and ``(?P<name>...)`` for other text::

    Line("steps", r"step <step>: train loss <loss> \(took <step_time ms> ms\)")

What no line can tell reads by a function: one line (`Each`), all that follows a line (`Block`), a whole file
(`Format.document`).
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from hpcbench.errors import UsageError, nearest

if TYPE_CHECKING:
    from hpcbench.rows import Tables

# What a placeholder matches. A number is judged when it is read, so that no digit can be matched in two ways: a
# megabyte of them must not take time that is quadratic in its length.
_MATCHES: dict[str, str] = {
    "number": r"[-+.0-9eEaAfFiInNtTyY]+",
    "clock": r"[0-9][-0-9:.,hms]*",
    "stamp": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?",
    "size": r"[0-9][0-9.,]* ?(?:[kKMGTP]i?)?[Bb]?",
    "int": r"\d+(?![\w.])",
    "thousands": r"\d[\d,]*",  # 1,234,567
    "word": r"[^ \t,;|\n]+",
}
# a placeholder; not the name in (?P<name>...) nor a look-behind
_PLACEHOLDER = re.compile(r"(?<!\(\?P)(?<!\(\?)<(?P<name>[a-z_]\w*)(?: (?P<unit>[^<>]+)|:(?P<kind>[a-z]+|\.\d))?>")
# what may stand before a line: colours are gone already, ranks and times stay
PREFIX = (
    r"(?:\[(?:default|[Rr]ank ?)?\d{1,6}\]:? ?|\d{1,5}: |\([^()\n]{1,40}\) |[A-Z]{4,8}:? +"
    r"|\[\d+,\d+\](?:<\w{1,10}>)?: ?|[a-z][a-z-]{0,20}\d{1,6}: |\[\d\d:\d\d:\d\d\] "
    r"|\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?Z?\]?[ :-]+){0,3}"
)

# The power of ten that turns a unit of a log into its SI unit.
POWERS: dict[str, int] = {"ms": -3, "us": -6, "ns": -9, "%": -2, "K": 3, "M": 6, "G": 9, "T": 12}
FACTORS: dict[str, float] = {
    "min": 60, "h": 3600, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 1e3, "MB": 1e6, "GB": 1e9,
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One row: the table it belongs to, its line (counted from 1) and its columns."""

    table: str
    line: int
    values: dict[str, Any]


# Records, and how many lines that look like records could not be read.
Reading = tuple[list[Record], int]


@dataclass(frozen=True)
class Column:
    """A placeholder of a pattern: the column it fills, what it matches, and the unit it has in the log."""

    name: str
    kind: str = "number"  # a key of what placeholders match, ".N" (so many decimals), or "text"
    unit: str = ""


@dataclass(frozen=True)
class Line:
    """A kind of line, which fills one row of `table` (one of `metrics.TABLES`, or `PARAMETERS`).

    `pattern` is searched in the line (``^`` is its beginning, after what ranks and loggers write before it).
    `constants` are columns that every such row has; a number in `unknown` is what the program prints when it does not
    know, and becomes NaN. A `weak` line could stand in other logs too: it counts only in a file where another line of
    the same format was found. `anchor` is text that every such line holds; without it the longest of the pattern. A
    line that holds it and does not match counts as one that could not be read, unless the line is `loose`.
    """

    table: str
    pattern: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, float] = field(default_factory=dict)
    weak: bool = False
    loose: bool = False
    anchor: str = ""

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The groups of the pattern, in order."""
        found = []
        for match in re.finditer(rf"{_PLACEHOLDER.pattern}|\(\?P<(?P<group>\w+)>", self.pattern):
            if match["group"]:
                found.append(Column(match["group"], "text"))
            else:
                found.append(Column(match["name"], match["kind"] or "number", match["unit"] or ""))
        return tuple(found)

    @cached_property
    def regex(self) -> re.Pattern[bytes]:
        """The pattern over bytes; each group is a column. Raises `ValueError` for one that could leave its line."""
        for column in self.columns:
            if column.unit and column.unit not in POWERS and column.unit not in FACTORS:
                raise ValueError(
                    f"<{column.name} {column.unit}>: a unit is one of {', '.join([*POWERS, *FACTORS])}; leave out s, B"
                )
        if "[^]" in self.pattern:
            raise ValueError(f"{self.pattern!r}: write [^\\]...] for [^]...]")
        if re.search(r"(?<!\\)(?:\\\\)*\\[sSWDnrvf]", self.pattern):
            raise ValueError(f"{self.pattern!r}: write [ \\t] for \\s, which would take a line's end as well")
        text = self.pattern.replace("[^", r"[^\n")
        text = f"^{PREFIX}{text[1:]}" if text.startswith("^") else text
        text = rf"{text[:-1]}[ \t]*$" if text.endswith("$") else text

        def group(match: re.Match[str]) -> str:
            kind = match["kind"] or "number"
            if kind.startswith("."):
                # a number that was cut has fewer
                return rf"(?P<{match['name']}>[-+]?(?:\d+\.\d{{{kind[1:]}}}|nan|inf))(?![\w.])"
            if kind not in _MATCHES:
                raise ValueError(f"<{match['name']}:{kind}>: a placeholder is one of {', '.join(_MATCHES)}")
            # a number that ends the pattern must end there in the log as well: two writers may have shared the line
            end = r"(?![\w.])" if match.end() == len(match.string) else ""
            return f"(?P<{match['name']}>{_MATCHES[kind]}){end}"

        regex = re.compile(_PLACEHOLDER.sub(group, text).encode(), re.MULTILINE)
        if regex.groups != len(regex.groupindex):
            raise ValueError(f"{self.pattern!r}: write (?:...) for a group that is no column")
        return regex

    @cached_property
    def literal(self) -> bytes:
        """The anchor, as bytes."""
        return (self.anchor or longest_literal(self.pattern)).encode()


@dataclass(frozen=True)
class Each:
    """Lines that hold `anchor`, each read by a function: it gives rows (table and columns), or None if it cannot."""

    anchor: str
    read: Callable[[bytes], Sequence[tuple[str, dict[str, Any]]] | None]
    weak: bool = False


@dataclass(frozen=True)
class Block:
    """What begins with a line that holds `anchor`: a function is given the text from that line on.

    That ends after `size` bytes, or where the next such block begins. The lines of its records count from 1.
    """

    anchor: str
    read: Callable[[bytes], Reading]
    size: int = 1 << 20


# The table that takes what a log says of how its run was set up: each column is a parameter of the case. Formats call
# the same thing by the same name, so that logs of different programs compare: `batch` (samples a step, of all devices),
# `micro_batch` (of one device, or of one micro step), `sequence_length`, `total_batch` (tokens a step); `processes`,
# `devices`, `gpus`, `nodes`, `threads`; `tensor_parallel`, `pipeline_parallel`, `data_parallel`, `zero_stage`;
# `model`, `device`, `backend`, `precision` (see `PRECISIONS`); of servers `concurrency`, `request_rate` (`inf`: no
# limit), and the `input_tokens` and `output_tokens` that each request asks for.
PARAMETERS = "parameters"
# What programs call the numbers they compute with → the value of the parameter `precision`.
PRECISIONS: dict[str, str] = {
    "float32": "FP32", "fp32": "FP32", "float": "FP32", "float16": "FP16", "fp16": "FP16", "half": "FP16",
    "bfloat16": "BF16", "bf16": "BF16", "tf32": "TF32",
}  # fmt: skip
# What a log tells of, in the order in which one of several decides what a case is.
Kind = Literal["training", "inference", "evaluation", "system"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Format:
    """The form of a log.

    A file has it when one of its `parts` that is not weak is found in it. `kind` says what such a log tells of; logs of
    one kind are compared. The first `warmup` steps are marked as such. `finish` may complete the tables (for example
    the step that a line belongs to). A file that holds all of `sniff` is given whole to `document`, with its name. A
    case may leave `several` files of this format.
    `untried` says what the format was written from, where no real file was at hand.
    """

    name: str
    title: str
    example: str
    kind: Kind
    parts: tuple[Line | Each | Block, ...] = ()
    warmup: int = 0
    finish: Callable[[Tables], None] | None = None
    sniff: tuple[str, ...] = ()
    document: Callable[[bytes, str], Reading] | None = None
    several: bool = False
    untried: str = ""


def longest_literal(pattern: str) -> str:
    """Return the longest text that every match of a pattern holds; raises `ValueError` where it has none.

    Reads only what is plain: not what stands in groups or classes, may be repeated, or is one of several choices.
    """
    runs, run, depth, at = [], "", 0, 0
    text = _PLACEHOLDER.sub("\0", pattern).removeprefix("^")
    while at < len(text):
        letter, step = text[at], 1
        if letter == "\\":
            letter, step = text[at + 1 : at + 2], 2
            letter = "\0" if letter.isalnum() else letter
        elif letter == "[":
            step = (re.match(r"\[\^?\]?(?:\\.|[^\]\\])*\]", text[at:]) or text[at:])[0].__len__()
            letter = "\0"
        elif letter == "|" and not depth:
            raise ValueError(f"{pattern!r}: several choices have no text in common; give an anchor")
        elif letter in "()":
            depth += 1 if letter == "(" else -1
            letter = "\0"
        elif letter in "?*+{.$|^":
            if letter in "?*{":
                run = run[:-1]
            letter = "\0"
            if text[at] == "{":
                step = text.find("}", at) - at + 1
        if depth or letter == "\0":
            runs.append(run)
            run = ""
        else:
            run += letter
        at += step
    best = max([*runs, run], key=len)
    if len(best) < 3:
        raise ValueError(f"{pattern!r}: holds no text of three letters to look for; give an anchor")
    return best


def in_si(text: bytes | str, unit: str = "") -> float:
    """Read a number in its SI unit; the point moves before it is rounded: 18003.70 ms are 18.0037 s to the digit.

    Raises `ValueError` for text that is no number.
    """
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    if "_" in text or not text.isascii():  # which float() takes
        raise ValueError(text)
    power = POWERS.get(unit, 0)
    try:
        number = float(f"{text}e{power}")
    except ValueError:  # not a number, infinite, or with an exponent of its own
        number = float(text) * 10.0**power
    return number * FACTORS.get(unit, 1)


def duration(text: bytes | str) -> float:
    """Read ``1:02:03.5``, ``2-03:04:05`` (days), ``3m2.5s``, ``1h2m3s``, ``250ms`` or ``2.5`` in seconds.

    The decimal point may be a comma. Raises `ValueError` for anything else.
    """
    text = (text.decode(errors="replace") if isinstance(text, bytes) else text).replace(",", ".")
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(text)
    days, first, second, last, hours, minutes, millis, seconds = match.groups()
    if last is not None:
        parts = [part for part in (first, second, last) if part is not None]
        total = 0.0
        for part in parts:
            total = total * 60 + float(part)
        return total + 86400 * int(days or 0)
    if millis is not None:
        return in_si(millis, "ms")
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + float(seconds or 0)


_DURATION = re.compile(
    r"(?:(\d+)-)?(?:(\d+):)?(?:(\d+):)(\d+(?:\.\d*)?)"
    r"|(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d*)?)ms|(\d+(?:\.\d*)?)s?)?",
    re.ASCII,
)


def stamp(text: str) -> float:
    """Read a date and time in seconds since 1970; one that names no zone is taken as UTC. Raises `ValueError`."""
    found = datetime.fromisoformat(text.replace(",", ".").replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()


def size(text: bytes | str) -> float:
    """Read ``3500kb``, ``1.5 GiB``, ``12K`` or ``4096`` in bytes; K, M, G are powers of 1024. Raises `ValueError`."""
    text = (text.decode(errors="replace") if isinstance(text, bytes) else text).strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kKMGTP])i?)?[Bb]?", text, re.ASCII)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * 1024.0 ** (" KMGTP".index((match[2] or " ").upper()))


def all_formats() -> dict[str, Format]:
    """Return every format by name: the modules of this folder, and the user's files, which come first.

    Raises `ConfigError` for a user's file that holds a mistake.
    """
    from hpcbench.formats import custom

    return known(custom.keys())


def known(files: tuple[tuple[str, int], ...]) -> dict[str, Format]:
    """Return every format by name, the user's from those files (each with the time when it was written)."""
    from hpcbench.formats import custom

    return dict(sorted({**_modules(), **custom.load(files)}.items()))


@lru_cache(maxsize=1)
def _modules() -> dict[str, Format]:
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        for each in getattr(importlib.import_module(f"{__name__}.{module.name}"), "FORMATS", ()):
            found[each.name] = each
    return found


def get(name: str) -> Format:
    """Return the format of that name; raises `UsageError` with the nearest."""
    found = all_formats()
    if name not in found:
        raise UsageError(f"unknown format {name!r}{nearest(name, found)}")
    return found[name]
