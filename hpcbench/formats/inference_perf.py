"""inference-perf (kubernetes-sigs): summary_lifecycle_metrics.json and the files of its stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hpcbench.formats import Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, measured, number, number_parts, parameters, statistic

_MEASURED = {  # seconds
    "request_latency": "latency",
    "time_to_first_token": "ttft",
    "time_per_output_token": "tpot",
    "normalized_time_per_output_token": "latency_per_token",
    # gaps between tokens, 0 within a chunk: not those between chunks
    "inter_token_latency": "token_arrival_gap",
    "prompt_len": "input_tokens",
    "output_len": "output_tokens",
}
_RATES = {
    "input_tokens_per_sec": "input_tokens_per_second",
    "output_tokens_per_sec": "output_tokens_per_second",
    "total_tokens_per_sec": "total_tokens_per_second",
    "requests_per_sec": "requests_per_second",
}
_LOAD = {
    "count": "requests",
    "send_duration": "send_duration",
    "requested_rate": "request_rate",
    "achieved_rate": "sent_requests_per_second",
    "concurrency": "max_concurrency",
}
_PARAMETERS = {"request_rate": "request_rate", "max_concurrency": "concurrency"}  # counter → parameter


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for report, at in text.objects("load_summary", "successes"):
        found: list[tuple[int, str, float]] = []
        place = at
        for key, value in report.items():
            if not isinstance(value, dict):
                continue
            place = text.after(key, place)
            if key == "load_summary":
                known = {each: name for each, name in _LOAD.items() if each in value}
                found += [
                    (text.line(text.after(each, place)), name, number(value[each])) for each, name in known.items()
                ]
                found += _statistics(text, place, "schedule_delay", "schedule_delay", value.get("schedule_delay"))
            elif key == "successes":
                found += _successes(text, place, value)
            elif key == "failures" and "count" in value:
                found.append((text.line(text.after("count", place)), "failed", number(value.get("count"))))
        load = {_PARAMETERS[name]: value for _, name, value in found if name in _PARAMETERS and value > 0}
        records += counters(sorted(found, key=lambda row: row[0]), **load) + parameters(text.line(at), load)
    return records, 0 if records else 1


def _successes(text: Text, at: int, value: Mapping[str, Any]) -> list[tuple[int, str, float]]:
    found = [(text.line(text.after("count", at)), "completed", number(value["count"]))] if "count" in value else []
    flat: dict[str, Any] = {}
    for key, each in value.items():  # latencies stand in a group of their own
        flat |= each if key in ("latency", "throughput") and isinstance(each, dict) else {key: each}
    for key, each in flat.items():
        if key in _RATES:
            found.append((text.line(text.after(key, at)), _RATES[key], number(each)))
        elif key in _MEASURED:
            found += _statistics(text, at, key, _MEASURED[key], each)
    return found


def _statistics(text: Text, at: int, key: str, name: str, value: object) -> list[tuple[int, str, float]]:
    if not isinstance(value, dict):
        return []
    place, lines, known = text.after(key, at), {}, {}
    for label, each in value.items():
        if (short := statistic(label)) is not None:
            place = text.after(label, place)
            lines[short], known[short] = text.line(place), number(each)
    if name != "schedule_delay":  # on time to the digit is a measurement
        known = measured(known)
    return [(lines[short], f"{name}_{short}", each) for short, each in known.items() if not math.isnan(each)]


FORMATS = (
    Format(
        name="inference-perf",
        kind="inference",
        title="inference-perf lifecycle metrics, JSON",
        example='{"load_summary": {"count": 10}, "successes": {"count": 10, "latency": {"time_to_first_token": '
        '{"mean": 0.125, "p99": 0.25}}}, "failures": {"count": 0}}',
        sniff=('"load_summary"', '"successes"', '"failures"'),
        document=_document,
        finish=number_parts,
        untried="written from inference_perf/reportgen/base.py of kubernetes-sigs/inference-perf",
    ),
)
