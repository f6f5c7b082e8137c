"""What formats of tools that measure servers share: JSON in any text, with lines, and the names of their counters."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from hpcbench.formats import PARAMETERS, Record, in_si
from hpcbench.metrics import shown
from hpcbench.rows import Tables

_DECODER = json.JSONDecoder()  # takes NaN and Infinity, which several tools write
_RATES = ("tokens", "requests", "samples", "queries")
_TIMES = re.compile(r"(?:ttft|ttfo|tpot|latency)(?:_|$)|(?:.+_)?(?:gap|time|delay|duration)(?:_|$)")


class Text:
    """A file as text, in which objects and keys of JSON have a line."""

    def __init__(self, data: bytes) -> None:
        self.text = data.decode("utf-8-sig", errors="replace")

    @cached_property
    def _breaks(self) -> list[int]:
        return [match.start() for match in re.finditer("\n", self.text)]

    def line(self, at: int) -> int:
        """Return the line of a position, from 1."""
        return bisect_left(self._breaks, at) + 1

    def after(self, key: str, at: int) -> int:
        """Return where a key stands at or after `at`; `at` itself if nowhere."""
        found = self.text.find(json.dumps(key, ensure_ascii=False), at) if self._breaks else at
        return at if found < 0 else found

    def objects(self, *keys: str) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each object that holds all `keys`, wherever in the text, and where it begins.

        Of an object in another one only the outer is tried. What a text costs that is full of brackets and no JSON is
        limited.
        """
        at, effort = self.text.find("{"), 4 * len(self.text) + 100_000
        while at >= 0 and effort > 0:
            try:
                value, end = _DECODER.raw_decode(self.text, at)
            except json.JSONDecodeError as error:
                reached = len(self.text) if error.msg.startswith("Unterminated") else error.pos
                effort -= reached - at + 100
                end = at + 1
            except (ValueError, RecursionError):  # a number of thousands of digits, or too deep
                effort -= 10_000
                end = at + 1
            else:
                if all(key in value for key in keys):
                    yield value, at
            at = self.text.find("{", end)


def unit_of(name: str) -> str:
    """Return the SI unit of a counter by the parts of its name."""
    for each in _RATES:
        if f"{each}_per_second" in name:
            return f"{each}/s"
    if name == "request_rate":
        return "requests/s"
    return "s" if _TIMES.match(name) else ""


def number(value: object, power: str = "") -> float:
    """Read a number of JSON in its SI unit; what is none, or infinite, is NaN. Some tools write numbers as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        read = in_si(repr(value) if isinstance(value, float) else str(value), power)
    except (ValueError, OverflowError):
        return math.nan
    return read if math.isfinite(read) else math.nan


def counters(found: Iterable[tuple[int, str, float]], **columns: object) -> list[Record]:
    """Make counters of lines, names and values; what is no finite number is left out."""
    return [
        Record("counters", line, {"name": name, "value": value, "unit": unit_of(name), **columns})
        for line, name, value in found
        if math.isfinite(value)
    ]


def parameters(line: int, found: Mapping[str, object]) -> list[Record]:
    """Make a record of how a run was set up, as JSON says it; what is not known or no plain value is left out.

    Without limit (``inf``, in some tools as text) is a rate of requests like any other.
    """
    known: dict[str, Any] = {}
    for name, value in found.items():
        if name == "request_rate" and value in (math.inf, "inf"):
            known[name] = "inf"
        elif 0 <= (each := number(value)) < 1e15:
            known[name] = each
        elif isinstance(value, str) and math.isnan(each) and value not in ("", "inf"):
            known[name] = shown(value, 200)
    return [Record(PARAMETERS, line, known)] if known else []


def measured(statistics: dict[str, float]) -> dict[str, float]:
    """Leave out statistics of a time that are all of nothing: tools write 0 for the mean of no value."""
    known = {name: value for name, value in statistics.items() if math.isfinite(value)}
    return {} if known.get("mean", max(known.values(), default=0.0)) == 0 else known


def statistic(name: str) -> str | None:
    """Return the name that a statistic has here: mean, median, std, min, max, p1 to p99.9; None for others."""
    plain = {"avg": "mean", "average": "mean", "stddev": "std", "std_dev": "std", "stdev": "std", "p50": "median"}
    small = {"p001": "p0.1", "p01": "p1", "p05": "p5", "p999": "p99.9"}
    name = plain.get(name, small.get(name, name))
    return name if re.fullmatch(r"mean|median|std|min|max|p\d{1,2}(?:\.\d{1,3})?", name) else None


# columns that tell the measurements of one file apart
_TELL = (
    "model",
    "backend",
    "scenario",
    "strategy",
    "test",
    "concurrency",
    "request_rate",
    "threads",
    "gpu_layers",
    "prompt_batch",
)


def number_parts(tables: Tables) -> None:
    """Give each measurement of a file its number where nothing else tells some of them apart.

    One begins where a name comes again that was measured of the same.
    """
    rows = tables.get("counters")
    if rows is None or "part" in rows:
        return
    part, seen, parts = 1, set[tuple[str, ...]](), []
    for key in zip(*(map(str, rows[name].tolist()) for name in ("name", *_TELL)), strict=True):
        if key in seen:
            part, seen = part + 1, set()
        seen.add(key)
        parts.append(part)
    if part > 1:
        rows["part"] = np.array(parts, dtype=float)
