"""NVIDIA aiperf and its forerunner genai-perf: the JSON of a run, its CSV, and aiperf's line of each request."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from hpcbench.formats import Block, Each, Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, measured, number, number_parts, statistic

_TOTALS = {  # one number each, under "avg"
    "request_throughput": "requests_per_second",
    "request_count": "completed",
    "error_request_count": "failed",
    "good_request_count": "good",
    "goodput": "good_requests_per_second",
    "benchmark_duration": "duration",
    "output_token_throughput": "output_tokens_per_second",
    "total_token_throughput": "total_tokens_per_second",
    "total_isl": "input_tokens",
    "total_osl": "output_tokens",
    "total_output_tokens": "content_tokens",
    "total_reasoning_tokens": "reasoning_tokens",
}
_MEASURED = {  # statistics over requests
    "request_latency": "latency",
    "time_to_first_token": "ttft",
    "time_to_first_output_token": "ttfo",
    "time_to_second_token": "second_chunk_gap",
    "inter_token_latency": "tpot",  # (latency - ttft) / (tokens - 1), one value a request
    "inter_chunk_latency": "chunk_gap",
    "output_token_throughput_per_user": "request_decode_tokens_per_second",  # 1 / its inter-token latency
    "output_token_throughput_per_request": "request_output_tokens_per_second",
    "prefill_throughput": "request_prefill_tokens_per_second",
    "prefill_throughput_per_user": "request_prefill_tokens_per_second",
    "output_sequence_length": "output_tokens",  # reasoning included
    "input_sequence_length": "input_tokens",
    "output_token_count": "content_tokens",  # without reasoning
    "reasoning_token_count": "reasoning_tokens",
}
_POWERS = {"ms": "ms", "us": "us", "ns": "ns"}  # of what is in seconds here


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for run, at in text.objects("request_throughput", "request_latency"):
        found: list[tuple[int, str, float]] = []
        place = at
        for key, block in run.items():
            if not isinstance(block, dict) or (key not in _TOTALS and key not in _MEASURED and key != "input_config"):
                continue
            place = text.after(key, place)
            if key == "input_config":
                found += _load(text, place, block)
            elif "avg" in block:
                found += _block(text, place, key, block)
        records += counters(sorted(found, key=lambda row: row[0]))
    return records, 0 if records else 1


def _block(text: Text, at: int, key: str, block: Mapping[str, Any]) -> list[tuple[int, str, float]]:
    power = _POWERS.get(str(block.get("unit")), "")
    if key in _TOTALS:
        return [(text.line(text.after("avg", at)), _TOTALS[key], number(block["avg"], power))]
    lines, known = {}, {}
    for label, value in block.items():
        if (short := statistic(label)) is not None:
            at = text.after(label, at)
            lines[short], known[short] = text.line(at), number(value, power)
    return [(lines[short], f"{_MEASURED[key]}_{short}", value) for short, value in measured(known).items()]


def _load(text: Text, at: int, config: Mapping[str, Any]) -> list[tuple[int, str, float]]:
    """Read what load was asked for."""
    analyzer = config.get("perf_analyzer")
    stimulus = analyzer.get("stimulus") if isinstance(analyzer, dict) else None
    found = []
    for where, load in (("loadgen", config.get("loadgen")), ("stimulus", stimulus)):
        for key, name in (("concurrency", "max_concurrency"), ("request_rate", "request_rate")):
            if isinstance(load, dict) and number(load.get(key)) > 0:
                place = text.after(key, text.after(where, at))
                found.append((text.line(place), name, number(load[key])))
    return found


# --- the CSV: a table of statistics and one of single values, with the names that people are shown ---

_NAME = re.compile(r"([A-Za-z][\w ]{0,80}?)(?: \(([a-z/]{1,20})\))?")
_KEYS = {"total_input_sequence_length": "total_isl", "total_output_sequence_length": "total_osl"}
_POWER_OF = {  # of a unit; a row with another one is not read
    "ms": "ms", "us": "us", "ns": "ns", "sec": "", "tokens": "", "tokens/sec": "", "tokens/sec/user": "",
    "requests/sec": "", "": "",
}  # fmt: skip
_CELL = re.compile(r"-?(?:\d{1,20}|\d{1,3}(?:,\d{3}){1,6})(?:\.\d{1,9})?", re.ASCII)


def _table(known: Mapping[str, str], begin: str) -> Callable[[bytes], Reading]:
    """Make the reader of a table whose header begins so and which holds `known` metrics."""

    def read(data: bytes) -> Reading:
        *lines, cut = data.decode("utf-8-sig", errors="replace").split("\n")
        if not lines or not lines[0].startswith(begin):
            return [], 0
        labels = [statistic(label) for label in lines[0].split(",")[1:]]
        found: list[tuple[int, str, float]] = []
        unread = 0
        for place, line in enumerate(lines[1:], 2):
            if not line.strip():
                break
            row = _row(line, labels, known)
            unread += row is None
            found += [(place, name, value) for name, value in row or ()]
        else:
            unread += bool(cut)  # no line break ends it: it may have been cut
        return counters(found), unread

    return read


def _row(line: str, labels: list[str | None], known: Mapping[str, str]) -> list[tuple[str, float]] | None:
    """Read a row: a metric with its unit, and numbers of which some may be missing. None for one that is damaged."""
    name, *cells = next(csv.reader([line]))
    match = _NAME.fullmatch(name)
    key = match[1].lower().replace(" ", "_") if match else ""
    key = _KEYS.get(key, key)
    if match is None or key not in known:
        return []
    power = _POWER_OF.get(match[2] or "")
    if power is None or len(cells) != len(labels) or not all(_CELL.fullmatch(cell) for cell in cells if cell):
        return None
    values = [number(cell.replace(",", ""), power) for cell in cells]
    if known is _TOTALS:
        return [(known[key], values[0])]
    named = {label: value for label, value in zip(labels, values, strict=True) if label is not None}
    return [(f"{known[key]}_{label}", value) for label, value in measured(named).items()]


# --- one line a request ---

_LONGEST = 1 << 20

_COLUMNS = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "request_latency": "latency",
    "input_sequence_length": "input_tokens",
    "error_isl": "input_tokens",
    "output_sequence_length": "output_tokens",
}


def _request(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    if not line.lstrip().startswith(b"{"):
        return []
    value = json.loads(line) if len(line) < _LONGEST else {}
    metadata, metrics, error = value["metadata"], value["metrics"] or {}, value["error"]
    if not isinstance(metadata, dict) or not isinstance(metrics, dict):
        return None
    row: dict[str, Any] = {
        "started": number(metadata.get("request_start_ns"), "ns"),
        "finished": number(metadata.get("request_end_ns"), "ns"),
    }
    for key, column in _COLUMNS.items():
        if isinstance(each := metrics.get(key), dict):
            row[column] = number(each.get("value"), _POWERS.get(str(each.get("unit")), ""))
    row = {name: each for name, each in row.items() if math.isfinite(each)}
    row["status"] = "cancelled" if metadata.get("was_cancelled") is True else "failed" if error else "completed"
    if isinstance(error, dict):
        row["error"] = ": ".join(str(error[key]) for key in ("type", "message") if key in error)[:500]
    if isinstance(phase := metadata.get("benchmark_phase"), str):
        row["phase"] = phase
    return [("requests", row)]


FORMATS = (
    Format(
        name="aiperf",
        kind="inference",
        title="aiperf and genai-perf, JSON",
        example='{"request_throughput": {"unit": "requests/sec", "avg": 2.5}, '
        '"request_latency": {"unit": "ms", "avg": 800.5, "p99": 950.25}}',
        sniff=('"request_throughput"', '"request_latency"', '"avg"'),
        document=_document,
        finish=number_parts,
    ),
    Format(
        name="aiperf-csv",
        kind="inference",
        title="aiperf profile_export_aiperf.csv",
        example="Metric,avg,min,max,p50,p99,std\nRequest Latency (ms),800.50,700.00,960.25,790.00,950.25,60.50",
        parts=(
            Block("Metric,avg,", _table(_MEASURED, "Metric,avg,"), size=1 << 16),
            Block("Metric,Value", _table(_TOTALS, "Metric,Value"), size=1 << 16),
        ),
        finish=number_parts,
        untried="written from aiperf's exporter and the sample in its repository; none is among the logs of the tests",
    ),
    Format(
        name="aiperf-requests",
        kind="inference",
        title="aiperf profile_export.jsonl",
        example='{"metadata": {"request_start_ns": 1700000000000000000, "request_end_ns": 1700000000500000000, '
        '"was_cancelled": false}, "metrics": {"time_to_first_token": {"value": 80.5, "unit": "ms"}}, "error": null}',
        parts=(Each('"request_start_ns"', _request),),
        untried="written from aiperf's guide to its profile exports, whose records stand on several lines",
    ),
)
