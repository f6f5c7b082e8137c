"""MLPerf inference: the summary and the detail log of loadgen."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from hpcbench.formats import PARAMETERS, Block, Each, Format, Reading, Record, in_si
from hpcbench.formats.measurements import counters, number, number_parts, parameters, unit_of

_COUNTS = {
    "Samples per second": "samples_per_second",
    "Samples per query": "samples_per_query",
    "Completed samples per second": "samples_per_second",
    "Scheduled samples per second": "scheduled_samples_per_second",
    "Tokens per second": "output_tokens_per_second",
    "Completed tokens per second": "output_tokens_per_second",
    "QPS w/ loadgen overhead": "queries_per_second",
    "QPS w/o loadgen overhead": "queries_per_second_without_overhead",
    "target_qps": "target_queries_per_second",
    "samples_per_query": "samples_per_query",
}
_METRICS = {"latency": "latency", "First Token latency": "ttft", "Time per Output Token": "tpot"}
_METRICS |= {"Time to Output Token": "tpot", "first token latency": "ttft", "time to output token": "tpot"}
_STATISTIC = re.compile(
    r"(?:(Min|Max|Mean) (latency|First Token latency|Time (?:per|to) Output Token)"
    r"|(\d+\.\d\d) percentile (latency|first token latency|time to output token)) \(ns\)"
)


def _summary(data: bytes) -> Reading:
    """Read the lines of name and value below the title; times are in nanoseconds."""
    records: list[Record] = []
    seen = set[str]()
    scenario: dict[str, str] = {}
    lines = data.decode(errors="replace").split("\n")[:-1]  # what has no end may be cut within a number
    for line, text in enumerate(lines, 1):
        name, colon, value = (part.strip() for part in text.partition(":"))
        if not colon:
            if re.match(r"\d+ ERRORS? encountered", text):
                records.append(Record("events", line, {"kind": "error", "message": text.strip()[:500]}))
        elif name == "Scenario" and value.isalnum():
            scenario = {"scenario": value}
            records += parameters(line, scenario)
        elif name == "Result is" and value in ("VALID", "INVALID"):
            records += _validity(line, value, scenario)
        elif (short := _short(name)) is not None and short not in seen:  # some are printed twice
            found = [(line, short, number(value, "ns" if name.endswith("(ns)") else ""))]
            records += counters(found, **scenario)
            if short == "target_queries_per_second" and scenario.get("scenario") == "Server":  # of others a guess
                records += parameters(line, {"request_rate": value})
            seen.add(short)
    return records, 0


def _short(name: str) -> str | None:
    if name in _COUNTS:
        return _COUNTS[name]
    match = _STATISTIC.fullmatch(name)
    if match is None:
        return None
    return f"{_METRICS[match[2] or match[4]]}_{match[1].lower() if match[1] else _percentile(match[3])}"


def _percentile(text: str) -> str:
    return "median" if float(text) == 50 else f"p{float(text):g}"


def _validity(line: int, value: str, scenario: dict[str, str]) -> list[Record]:
    valid = {"name": "valid", "value": float(value == "VALID"), "unit": "", **scenario}
    records = [Record("counters", line, valid)]
    if value == "INVALID":
        records.append(Record("events", line, {"kind": "invalid", "message": "Result is : INVALID"}))
    return records


# --- the detail log ---

_KEYS = {
    "result_samples_per_second": "samples_per_second",
    "result_completed_samples_per_sec": "samples_per_second",
    "result_completed_samples_per_second": "samples_per_second",
    "result_scheduled_samples_per_sec": "scheduled_samples_per_second",
    "result_completed_tokens_per_second": "output_tokens_per_second",
    "result_tokens_per_second": "output_tokens_per_second",
    "result_qps_with_loadgen_overhead": "queries_per_second",
    "result_qps_without_loadgen_overhead": "queries_per_second_without_overhead",
    "result_query_count": "queries",
    "effective_target_qps": "target_queries_per_second",
    "effective_samples_per_query": "samples_per_query",
    "num_errors": "errors",
}
_LATENCY = re.compile(
    r"result_(?:(first_token|time_per_output_token|time_to_output_token)_)?"
    r"(?:(min|max|mean)|(\d+\.\d\d)_percentile)(?:_latency)?(?:_ns)?"
)
_TOKENS = {None: "latency", "first_token": "ttft", "time_per_output_token": "tpot", "time_to_output_token": "tpot"}


def _detail(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read a line of loadgen; those of MLPerf training do not say whether they are errors."""
    at = line.find(b":::MLLOG ")
    if b'"is_error"' not in line or at < 0:
        return []
    if len(line) > 1 << 20:
        return None
    entry = json.loads(line[at + 9 :].decode(errors="replace"))
    key, value = entry["key"], entry["value"]
    if entry["metadata"]["is_error"] is True:
        return [("events", {"kind": "error", "message": f"{key}: {value}"[:500]})]
    if key == "result_validity" and value in ("VALID", "INVALID"):
        return [(record.table, record.values) for record in _validity(1, value, {})]
    if key == "effective_scenario" and isinstance(value, str) and value.isalnum():
        return [(PARAMETERS, {"scenario": value})]
    match = _LATENCY.fullmatch(key)
    name, power = _KEYS.get(key), ""
    if match:
        name, power = f"{_TOKENS[match[1]]}_{match[2] or _percentile(match[3])}", "ns"
    if name is None or isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return []
    return [("counters", {"name": name, "value": in_si(repr(value), power), "unit": unit_of(name)})]


FORMATS = (
    Format(
        name="mlperf-inference-summary",
        kind="inference",
        title="MLPerf inference, mlperf_log_summary.txt",
        example="MLPerf Results Summary\nScenario : Offline\nSamples per second: 20.5\nResult is : VALID\n",
        parts=(Block("MLPerf Results Summary", _summary, size=1 << 16),),
        finish=number_parts,
    ),
    Format(
        name="mlperf-inference-detail",
        kind="inference",
        title="MLPerf inference, mlperf_log_detail.txt",
        example=':::MLLOG {"key": "result_mean_latency_ns", "value": 20500000, "time_ms": 90.5, "metadata": '
        '{"is_error": false, "is_warning": false, "file": "results.cc", "line_no": 1}}',
        parts=(Each(":::MLLOG ", _detail),),
    ),
)
