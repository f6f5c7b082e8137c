"""What servers say of a request in its `usage`, SambaNova's (the cloud, ALCF's Metis) and others; JSON in any text."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from hpcbench.formats import PARAMETERS, Block, Format, Reading, Record, in_si
from hpcbench.metrics import shown
from hpcbench.rows import Tables

# --- JSON in a text, and the counters that tools which measure servers write; their formats share these ---

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
_TELL = ("model", "backend", "scenario", "strategy", "test", "concurrency", "request_rate")


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


# --- the usage of a response ---

_BEGIN = re.compile(r"""["']?\busage["']?[ \t]*[:=][ \t\n]*(?:\w+\(|\{)""")
_END = re.compile(r"[\s,]*[})]")
_PAIR = re.compile(
    r"""[\s,]*["']?(\w{1,80})["']?\s*[:=]\s*(?:(-?\d[\d.eE+-]{0,40})(?=[\s,})])|'[^'\n]*'|"[^"\n]*"|(\w{0,40}[{(\[])|\w{1,20})"""
)
_BRACKET = re.compile(r"[{}()\[\]]")
_MODEL = re.compile(r"""["']?\bmodel["']?[ \t]*[:=][ \t]*["']([^"'\n]{1,200})["']""")
_COLUMNS = {  # all measured by the server, which is not what a client sees
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "time_to_first_token": "server_ttft",
    "total_latency": "server_latency",
    "completion_tokens_per_sec": "server_output_tokens_per_second",  # of the whole latency
    "completion_tokens_after_first_per_sec": "server_decode_tokens_per_second",
    "total_tokens_per_sec": "server_total_tokens_per_second",
    "start_time": "server_started",
    "end_time": "server_finished",
}
_TELLING = {"time_to_first_token", "total_latency", "completion_tokens_per_sec"}


def _usage(data: bytes, mark: str) -> Reading:
    """Read each usage of a text that begins with `mark`: as JSON, a dictionary of Python or an object of a client."""
    text = Text(data)
    records, unread, before = [], 0, 0
    for begin in _BEGIN.finditer(text.text):
        if not begin[0].startswith(mark):  # another block has it
            continue
        found = _pairs(text.text, begin.end())
        if found is None:
            unread += "total_latency" in text.text[begin.end() : begin.end() + 2000]
        elif found.keys() & _TELLING:
            row: dict[str, Any] = {column: found[name] for name, column in _COLUMNS.items() if name in found}
            models = _MODEL.findall(text.text, max(before, text.text.rfind("\n", 0, begin.start())), begin.start())
            if models:
                row["model"] = models[-1]
            records.append(Record("requests", text.line(begin.start()), row))
        before = begin.end()
    return records, unread


def _pairs(text: str, at: int) -> dict[str, float] | None:
    """Read names and numbers up to the bracket that ends them; None where it is missing."""
    found: dict[str, float] = {}
    for _ in range(100):
        if _END.match(text, at):
            return found
        pair = _PAIR.match(text, at)
        if pair is None:
            return None
        at = pair.end()
        if pair[2]:
            found[pair[1]] = float(pair[2])
        elif pair[3]:  # brackets in brackets: details that are not read
            depth = 1
            for bracket in _BRACKET.finditer(text, at, at + 4000):
                depth += 1 if bracket[0] in "{([" else -1
                if not depth:
                    at = bracket.end()
                    break
            if depth:
                return None
    return None


# --- the response of any server that speaks OpenAI's protocol: tokens, and no time ---

_RESPONSES = ("chat.completion", "text_completion")


def _responses(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records = []
    for value, at in text.objects("object", "choices", "usage"):
        usage = value["usage"]
        if value["object"] not in _RESPONSES or not isinstance(usage, dict) or usage.keys() & _TELLING:
            continue
        known = {key: number(each) for key, each in usage.items()}
        model = value["model"] if isinstance(value.get("model"), str) else ""
        records += _response(text.line(text.after("usage", at)), known, model)
    return records, 0


def _printed(data: bytes) -> Reading:
    """Read responses as OpenAI's client prints them."""
    text = Text(data)
    records, before = [], 0
    for begin in re.finditer(r"\busage=CompletionUsage\(", text.text):
        head = text.text[before : begin.start()].rpartition("\n")[2]
        found, before = _pairs(text.text, begin.end()), begin.end()
        if found and not found.keys() & _TELLING and any(f"object='{each}'" in head for each in _RESPONSES):
            records += _response(text.line(begin.start()), found, (_MODEL.findall(head) or [""])[-1])
    return records, 0


def _response(line: int, usage: dict[str, float], model: str) -> list[Record]:
    row: dict[str, Any] = {
        _COLUMNS[name]: usage[name]
        for name in ("prompt_tokens", "completion_tokens")
        if not math.isnan(usage.get(name, math.nan))
    }
    return [Record("requests", line, {**row, "model": model} if model else row)] if "output_tokens" in row else []


# --- what ALCF's service says of a batch ---

_BATCH = {
    "response_time": "duration",
    "throughput_tokens_per_second": "total_tokens_per_second",
    "total_tokens": "total_tokens",
    "num_responses": "completed",
    "lines_processed": "requests",
}


def _batch(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for value, at in text.objects("num_responses"):
        records += _totals(text, at, value)
    for value, at in text.objects("metrics"):
        inner = value["metrics"]
        if isinstance(inner, dict) and "num_responses" in inner:
            records += _totals(text, text.after("metrics", at), inner)
    return records, 0


def _totals(text: Text, at: int, value: dict[str, Any]) -> list[Record]:
    known = {key: name for key, name in _BATCH.items() if key in value}
    return counters((text.line(text.after(key, at)), name, number(value[key])) for key, name in known.items())


# --- what a student's script prints that asks several endpoints the same ---

_ENDPOINT = re.compile(r"--- Testing (?P<endpoint>.{1,80}?) \(Model: (?P<model>[^\s()]{1,200})\) ---")
_ANSWER = re.compile(r"\[Req \d+\] Success \((\d+) tokens\)")
_TOTALS = (
    ("duration", re.compile(r"> Duration: (\d+\.\d\d)s$")),
    ("output_tokens_per_second", re.compile(r"> Throughput: (\d+\.\d\d) tokens/sec$")),
)


def _endpoint(data: bytes) -> Reading:
    lines = data.decode(errors="replace").split("\n")
    head = _ENDPOINT.search(lines[0])
    if head is None:
        return [], 0
    records: list[Record] = []
    for line, text in enumerate(lines[1:400], 2):
        plain = text.strip()
        if answer := _ANSWER.fullmatch(plain):
            row = {"output_tokens": float(answer[1]), "status": "completed", **head.groupdict()}
            records.append(Record("requests", line, row))
        for name, pattern in _TOTALS:
            if total := pattern.fullmatch(plain):
                records += counters([(line, name, float(total[1]))], **head.groupdict())
        if plain and plain[0] not in "[>":
            break
    return records, 0


FORMATS = (
    Format(
        name="sambanova-usage",
        kind="inference",
        title="responses of SambaNova's servers (usage)",
        example='{"model":"m-1","usage":{"completion_tokens":40,"completion_tokens_per_sec":160.5,"prompt_tokens":12,'
        '"time_to_first_token":0.0625,"total_latency":0.25,"total_tokens":52}}',
        parts=(
            Block('"usage"', lambda data: _usage(data, '"usage"'), size=1 << 16),
            Block("'usage'", lambda data: _usage(data, "'usage'"), size=1 << 16),
            Block("usage=CompletionUsage(", lambda data: _usage(data, "usage=CompletionUsage("), size=1 << 16),
        ),
    ),
    Format(
        name="openai-response",
        kind="inference",
        title="responses of servers that speak OpenAI's protocol (Sophia)",
        example='{"id": "r-1", "object": "chat.completion", "model": "m-1", "choices": [], '
        '"usage": {"prompt_tokens": 12, "total_tokens": 52, "completion_tokens": 40}}',
        sniff=('"usage"', '"choices"', '"completion_tokens"'),
        document=_responses,
        parts=(Block("usage=CompletionUsage(", _printed, size=1 << 16),),
        untried="written from responses of vLLM and OpenAI quoted in public repositories",
    ),
    Format(
        name="alcf-batch",
        kind="inference",
        title="result of a batch of ALCF's inference service",
        example='{"metrics": {"response_time": 20.5, "throughput_tokens_per_second": 400.0, "total_tokens": 8200, '
        '"num_responses": 10, "lines_processed": 10}}',
        sniff=('"response_time"', '"throughput_tokens_per_second"', '"num_responses"'),
        document=_batch,
    ),
    Format(
        name="endpoint-test",
        kind="inference",
        title="a script that asks several endpoints (Metis, Sophia) in turn",
        example="--- Testing Metis (SambaNova) (Model: m-1) ---\n  [Req 1] Success (31 tokens)\n  > Duration: 2.50s",
        parts=(Block("--- Testing ", _endpoint, size=1 << 15),),
    ),
)
