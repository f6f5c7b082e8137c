"""guidellm: its benchmarks JSON, of versions before 0.4 and after."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hpcbench.formats import Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, measured, number, number_parts, parameters, statistic

_METRICS = {
    "request_concurrency": "concurrency",
    "request_latency": "latency",
    "prompt_token_count": "input_tokens",
    "output_token_count": "output_tokens",
    "total_token_count": "total_tokens",
    "time_to_first_token_ms": "ttft",
    # (last - first) / (tokens - 1) of each request, counted once a token: neither tpot nor a gap between chunks
    "inter_token_latency_ms": "token_gap",
}
# Distributions over moments, not over requests: of them the mean is a rate of the whole run. Its `tokens_per_second`
# counts a prompt at the moment of the first token; its mean is far from all tokens / the duration, and is left out.
_RATES = ("requests_per_second", "output_tokens_per_second")
# its time per output token: once (last - first) / tokens, since 0.4 the whole latency / tokens
_PER_TOKEN = {True: "latency_per_token", False: "decode_time_per_token"}
_TOTALS = {"successful": "completed", "errored": "failed", "incomplete": "incomplete"}
_STATUS = {"successful": "completed", "errored": "failed", "incomplete": "incomplete"}


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for report, at in text.objects("benchmarks"):
        place = text.after("benchmarks", at)
        for each in _objects(report["benchmarks"]):
            if "metrics" not in each:
                continue
            place, found = _benchmark(text, place, each)
            records += found
    return records, 0 if records else 1


def _benchmark(text: Text, at: int, each: Mapping[str, Any]) -> tuple[int, list[Record]]:
    """Read one benchmark that stands after `at`; return also where its last part begins."""
    recent = "config" in each
    outer = each.get("config") if recent else each.get("args")
    strategy = outer.get("strategy") if isinstance(outer, dict) else None
    strategy = strategy if isinstance(strategy, dict) else {}
    kind = {"strategy": strategy["type_"]} if isinstance(strategy.get("type_"), str) else {}
    found: list[tuple[int, str, float]] = []
    records: list[Record] = []
    place = at
    for key, value in each.items():  # in the order of the file
        place = text.after(key, place)
        if key == "metrics" and isinstance(value, dict):
            found += _metrics(text, place, value, recent)
        elif key == "request_totals" and isinstance(value, dict):
            found += [(text.line(place), name, number(value.get(key))) for key, name in _TOTALS.items()]
        elif key == "duration":
            found.append((text.line(place), "duration", number(value)))
        elif key == "requests" and isinstance(value, dict):
            records += _requests(text, place, value)
    first = text.line(at if place == at else text.after(next(iter(each)), at))
    for key, name in (("rate", "request_rate"), ("streams", "max_concurrency"), ("max_concurrency", "max_concurrency")):
        if number(strategy.get(key)) > 0:
            found.append((first, name, number(strategy[key])))
    load = {_LOAD[name]: value for _, name, value in found if name in _LOAD}
    if not any(name == "completed" for _, name, _ in found):
        found.append((first, "completed", _count(each)))
    said = {**load, **_setup(each)}
    records += parameters(first, said)
    return place, counters(sorted(found, key=lambda row: row[0]), **kind, **load) + records


_LOAD = {"max_concurrency": "concurrency", "request_rate": "request_rate"}  # counter → parameter
_TOKENS = re.compile(r"\b(prompt|output)_tokens=(\d{1,9})(?=,|$)")


def _setup(each: Mapping[str, Any]) -> dict[str, object]:
    """Return the model, and the lengths that prompts were made to have, as versions before 0.4 say them."""
    found: dict[str, object] = {}
    places = [each.get("worker"), each.get("request_loader")]
    for place in [place for place in places if isinstance(place, dict)]:
        found["model"] = found.get("model") or place.get("backend_model")
        for side, count in _TOKENS.findall(str(place.get("data"))[:1000]):
            found["input_tokens" if side == "prompt" else "output_tokens"] = count
    return found


def _count(each: Mapping[str, Any]) -> float:
    latency = each["metrics"].get("request_latency") if isinstance(each["metrics"], dict) else None
    good = latency.get("successful") if isinstance(latency, dict) else None
    return number(good.get("count")) if isinstance(good, dict) else math.nan


def _metrics(text: Text, at: int, metrics: Mapping[str, Any], recent: bool) -> list[tuple[int, str, float]]:
    """Read the statistics over successful requests."""
    found = []
    for key, value in metrics.items():
        at = text.after(key, at)
        if key in _RATES and isinstance(value, dict):
            found += _rate(text, at, key, value.get("successful"))
        name = _PER_TOKEN[recent] if key == "time_per_output_token_ms" else _METRICS.get(key)
        good = value.get("successful") if isinstance(value, dict) else None
        if name is None or not isinstance(good, dict) or number(good.get("count")) == 0:
            continue
        power = "ms" if key.endswith("_ms") else ""
        percentiles = good.get("percentiles")
        both = {**good, **(percentiles if isinstance(percentiles, dict) else {})}
        if "median" in both:
            both.pop("p50", None)
        place, lines, known = text.after("successful", at), {}, {}
        for label, each in both.items():
            if (short := statistic(label)) is not None and short != "mode":
                place = text.after(label, place)
                lines[short], known[short] = text.line(place), number(each, power)
        known = measured(known) if power or key == "request_latency" else known
        found += [(lines[short], f"{name}_{short}", each) for short, each in known.items()]
    return found


def _rate(text: Text, at: int, name: str, good: object) -> list[tuple[int, str, float]]:
    if not isinstance(good, dict):
        return []
    return [(text.line(text.after("mean", text.after("successful", at))), name, number(good.get("mean")))]


def _requests(text: Text, at: int, groups: Mapping[str, Any]) -> list[Record]:
    records = []
    for group, status in _STATUS.items():
        for each in _objects(groups.get(group)):
            name = each.get("request_id")
            place = text.text.find(f'"{name}"', at) if isinstance(name, str) and text.line(len(text.text)) > 1 else at
            at = max(at, place)
            records.append(Record("requests", text.line(at), {"status": status, **_times(each)}))
    return records


def _times(each: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of one request; its own time between tokens is the tpot of everyone else."""
    info = each.get("info")
    timings = info.get("timings") if isinstance(info, dict) else None
    timings = timings if isinstance(timings, dict) else {}
    row: dict[str, Any] = {
        "scheduled": number(timings.get("targeted_start")),
        "started": number(each.get("start_time", timings.get("request_start"))),
        "first_token": number(each.get("first_token_time", timings.get("first_token_iteration"))),
        "last_token": number(each.get("last_token_time", timings.get("last_token_iteration"))),
        "finished": number(each.get("end_time", timings.get("request_end"))),
        "ttft": number(each.get("time_to_first_token_ms"), "ms"),
        "tpot": number(each.get("inter_token_latency_ms"), "ms"),
        "latency": number(each.get("request_latency")),
        "input_tokens": number(each.get("prompt_tokens")),
        "output_tokens": number(each.get("output_tokens")),
    }
    row = {name: value for name, value in row.items() if math.isfinite(value)}
    error = each.get("error") or (info.get("error") if isinstance(info, dict) else None)
    return {**row, "error": error[:500]} if isinstance(error, str) else row


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


FORMATS = (
    Format(
        name="guidellm",
        kind="inference",
        title="guidellm benchmarks, JSON",
        example='{"benchmarks": [{"type_": "generative_benchmark", "config": {"strategy": {"type_": "concurrent", '
        '"streams": 4}}, "metrics": {"requests_per_second": {"successful": {"mean": 2.5, "count": 10}}, '
        '"request_concurrency": {"successful": {"mean": 3.5, "count": 10}}}, "duration": 4.0}]}',
        sniff=('"benchmarks"', '"requests_per_second"', '"request_concurrency"'),
        document=_document,
        finish=number_parts,
    ),
)
