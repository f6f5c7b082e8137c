"""NVIDIA aiperf and its forerunner genai-perf: the JSON of a run, and aiperf's line of each request."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from hpcbench.formats import Each, Format, Reading, Record
from hpcbench.formats.usage import Text, counters, measured, number, number_parts, statistic

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
        name="aiperf-requests",
        kind="inference",
        title="aiperf profile_export.jsonl",
        example='{"metadata": {"request_start_ns": 1700000000000000000, "request_end_ns": 1700000000500000000, '
        '"was_cancelled": false}, "metrics": {"time_to_first_token": {"value": 80.5, "unit": "ms"}}, "error": null}',
        parts=(Each('"request_start_ns"', _request),),
        untried="written from aiperf's guide to its profile exports, whose records stand on several lines",
    ),
)
