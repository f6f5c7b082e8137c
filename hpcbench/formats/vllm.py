"""vLLM: what `vllm bench serve` prints, and the JSON it saves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hpcbench.formats import Block, Each, Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, measured, number, number_parts, parameters, statistic

# --- the block, which SGLang's `bench_serving` took over and extended ---

TITLE = " Serving Benchmark Result "
_TOTALS = {
    "Successful requests": "completed",
    "Failed requests": "failed",
    "Request rate configured (RPS)": "request_rate",
    "Traffic request rate": "request_rate",
    "Maximum request concurrency": "max_concurrency",
    "Max request concurrency": "max_concurrency",
    "Max reqeuest concurrency": "max_concurrency",  # as SGLang 0.4.0 wrote it
    "Benchmark duration (s)": "duration",
    "Total input tokens": "input_tokens",
    "Total input text tokens": "input_text_tokens",
    "Total input vision tokens": "input_vision_tokens",
    "Total generated tokens": "output_tokens",
    "Total generated tokens (retokenized)": "output_tokens_retokenized",
    "Request throughput (req/s)": "requests_per_second",
    "Request goodput (req/s)": "good_requests_per_second",
    "Input token throughput (tok/s)": "input_tokens_per_second",
    "Output token throughput (tok/s)": "output_tokens_per_second",
    "Peak output token throughput (tok/s)": "peak_output_tokens_per_second",
    "Peak concurrent requests": "peak_concurrency",
    "Total Token throughput (tok/s)": "total_tokens_per_second",
    "Total token throughput (tok/s)": "total_tokens_per_second",
    "Concurrency": "concurrency_mean",
    "Accept length": "accepted_tokens_mean",
}
_TIMES = {"TTFT": "ttft", "TPOT": "tpot", "ITL": "chunk_gap", "E2EL": "latency", "E2E Latency": "latency"}
_ROW = re.compile(
    r"(?:^|.*[^\w(])(?:(?P<statistic>Mean|Median|Std|Min|Max|P\d{1,2}(?:\.\d{1,3})?) "
    r"(?P<time>TTFT|TPOT|ITL|E2EL|E2E Latency) \(ms\)|(?P<total>"
    + "|".join(re.escape(name) for name in sorted(_TOTALS, key=len, reverse=True))
    + r")): +(?P<value>\d[\d.]*|inf|nan|not set|None)(?P<end>[ \t]*)$"
)


def console(data: bytes, *, backend: bool) -> Reading:
    """Read a block; with `backend` only one that names its backend first, as SGLang's does, else only one without."""
    lines = data.decode(errors="replace").split("\n")
    if TITLE not in lines[0] or any("Backend:" in line for line in lines[1:4]) is not backend:
        return [], 0
    found: list[tuple[int, str, float]] = []
    times: dict[str, dict[str, tuple[int, float]]] = {}
    unlimited: list[int] = []
    unread = 0
    for line, text in enumerate(lines[1:80], 2):
        if "=" * 20 in text:
            break
        row = _ROW.match(text[-200:])
        whole = line < len(lines) or (row is not None and bool(row["end"]))  # else it may be cut within its number
        if row is not None and row["total"] and _TOTALS[row["total"]] == "request_rate" and row["value"] == "inf":
            unlimited.append(line)
        if row is None or not whole:
            unread += "(ms):" in text or "/s):" in text
        elif row["total"]:
            found.append((line, _TOTALS[row["total"]], number(row["value"])))
        elif re.fullmatch(r"\d+\.\d\d|nan|inf", row["value"]):
            name = statistic(row["statistic"].lower())
            times.setdefault(_TIMES[row["time"]], {})[str(name)] = (line, number(row["value"], "ms"))
        else:
            unread += 1
    for metric, statistics in times.items():
        known = measured({name: value for name, (_, value) in statistics.items()})
        found += [(statistics[name][0], f"{metric}_{name}", value) for name, value in known.items()]
    load = {_LOAD[name]: value for _, name, value in found if name in _LOAD}  # tells the blocks of one log apart
    said = [record for line, name, value in found if name in _LOAD for record in parameters(line, {_LOAD[name]: value})]
    said += [record for line in unlimited for record in parameters(line, {"request_rate": "inf"})]
    return counters(sorted(found, key=lambda each: each[0]), **load) + said, unread


_LOAD = {"max_concurrency": "concurrency", "request_rate": "request_rate"}  # counter → parameter
_ARGUMENT = re.compile(r"\b(\w{1,40})=(?:'([^'\n]{0,300})'|([^',()\s]{1,40})(?=[,)]))")


def arguments(line: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Read the line in which the program repeats its arguments: ``Namespace(backend='vllm', ...)``."""
    text = line.decode(errors="replace")
    if len(text) > 1 << 16 or "Namespace(" not in text[:60] or "dataset_name=" not in text:
        return []
    said = {match[1]: match[2] or match[3] for match in _ARGUMENT.finditer(text) if (match[2] or match[3]) != "None"}
    return [(record.table, record.values) for record in parameters(1, setup(said, said.get("model")))]


def setup(said: Mapping[str, Any], model: object) -> dict[str, object]:
    """Return the parameters among the arguments of a run, or the keys of its result: most are called the same.

    How many requests a run has is not one: that grows with the load, so that a run takes as long as the others.
    """
    found = {"backend": said.get("backend"), "model": model}
    found |= {"concurrency": said.get("max_concurrency"), "request_rate": said.get("request_rate")}
    if str(said.get("dataset_name")).startswith("random"):  # prompts of other data are as long as they happen to be
        for side in ("input", "output"):
            found[f"{side}_tokens"] = said.get(f"{side}_len") or said.get(f"random_{side}_len")
    return found


# --- the JSON ---

_SERVER = {"tp_size": "tensor_parallel", "pp_size": "pipeline_parallel", "dp_size": "data_parallel"}
_JSON_TOTALS = {
    "completed": "completed",
    "failed": "failed",
    "num_prompts": "requests",
    "request_rate": "request_rate",
    "max_concurrency": "max_concurrency",
    "burstiness": "burstiness",
    "duration": "duration",
    "total_input_tokens": "input_tokens",
    "total_input_text_tokens": "input_text_tokens",
    "total_input_vision_tokens": "input_vision_tokens",
    "total_output_tokens": "output_tokens",
    "total_output_tokens_retokenized": "output_tokens_retokenized",
    "request_throughput": "requests_per_second",
    "request_goodput": "good_requests_per_second",
    "request_goodput:": "good_requests_per_second",  # as versions of 2025 wrote it
    "input_throughput": "input_tokens_per_second",
    "output_throughput": "output_tokens_per_second",
    "total_token_throughput": "total_tokens_per_second",
    "total_throughput": "total_tokens_per_second",
    # the most in one second and at one time, not a statistic of requests
    "max_output_tokens_per_s": "peak_output_tokens_per_second",
    "max_concurrent_requests": "peak_concurrency",
    "concurrency": "concurrency_mean",
    "accept_length": "accepted_tokens_mean",
}
# "ITL" is the gap between two chunks, those of all requests together
_JSON_TIMES = {
    "ttft": "ttft", "tpot": "tpot", "itl": "chunk_gap", "e2el": "latency", "e2e_latency": "latency",
}  # fmt: skip
_TIME = re.compile(r"(mean|median|std|min|max|p\d{1,2}(?:\.\d{1,3})?)_(ttft|tpot|itl|e2el|e2e_latency)_ms")


def summary(text: Text, at: int, value: Mapping[str, Any]) -> list[Record]:
    """Read the scalars of a result as counters, in the order of the file."""
    found: list[tuple[int, str, float]] = []
    times: dict[str, dict[str, tuple[int, float]]] = {}
    place = at
    for key in value:
        match = _TIME.fullmatch(key)
        if match is None and key not in _JSON_TOTALS:
            continue
        place = text.after(key, place)
        if match is None:
            found.append((text.line(place), _JSON_TOTALS[key], number(value[key])))
        elif (name := statistic(match[1])) is not None and not (match[1] == "p50" and f"median_{match[2]}_ms" in value):
            found_at = (text.line(place), number(value[key], "ms"))
            times.setdefault(_JSON_TIMES[match[2]], {})[name] = found_at
    for metric, statistics in times.items():
        # all failed: the mean of nothing is written as 0
        known = measured({name: each for name, (_, each) in statistics.items()})
        found += [(statistics[name][0], f"{metric}_{name}", each) for name, each in known.items()]
    load = {_LOAD[name]: value for _, name, value in found if name in _LOAD}
    server = _server(value.get("server_info"))
    model = server.get("served_model_name") or server.get("model_path") or value.get("model_id")
    said = {**setup(value, model), **{name: server.get(key) for key, name in _SERVER.items()}}
    return counters(sorted(found, key=lambda each: each[0]), **load) + parameters(text.line(at), said)


def _server(said: object) -> Mapping[str, Any]:
    """Return what SGLang's server says of itself: in its own words, or in those of its first part."""
    info = said if isinstance(said, dict) else {}
    states = info.get("internal_states")
    first = states[0] if isinstance(states, list) and states and isinstance(states[0], dict) else {}
    return {**first, **info}


def details(text: Text, at: int, value: Mapping[str, Any]) -> list[Record]:
    """Read what a result with details says of each request."""
    ttfts = _list(value, "ttfts")
    if not ttfts:
        return []
    records = []
    line = text.line(text.after("ttfts", at))
    columns = {name: _list(value, name) for name in ("itls", "input_lens", "output_lens", "errors", "start_times")}
    for index, first in enumerate(ttfts):
        own = {name: each[index] if index < len(each) else None for name, each in columns.items()}
        error = own["errors"] if isinstance(own["errors"], str) else ""
        row: dict[str, Any] = {"status": "failed" if error else "completed"}
        row["input_tokens"] = number(own["input_lens"])
        row["started"] = number(own["start_times"])
        if error:
            row["error"] = error[:500]
        else:
            row |= _timing(number(first), own["itls"], number(own["output_lens"]))
        known = {name: each for name, each in row.items() if not (isinstance(each, float) and math.isnan(each))}
        records.append(Record("requests", line, known))
    return records


def _timing(ttft: float, gaps: object, tokens: float) -> dict[str, float]:
    row = {"output_tokens": tokens}
    if not ttft > 0:  # no token came, or none was streamed
        return row
    row["ttft"] = ttft
    if isinstance(gaps, list):  # stamped one after another: they add up to the time from the first chunk to the last
        after = sum((number(each) for each in gaps), 0.0)
        row["latency"] = ttft + after
        if tokens > 1 and after > 0:
            row["tpot"] = after / (tokens - 1)
    return row


def _list(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else []


def _document(data: bytes, _name: str) -> Reading:
    """Read results, one or many: `--append-result` writes one a line."""
    text = Text(data)
    records: list[Record] = []
    results = 0
    for value, at in text.objects("request_throughput", "model_id"):
        records += summary(text, at, value) + details(text, at, value)
        results += 1
    return records, max(0, text.text.count('"request_throughput"') - results)


FORMATS = (
    Format(
        name="vllm-bench",
        kind="inference",
        title="vllm bench serve",
        example="============ Serving Benchmark Result ============\n"
        "Successful requests:                     20        \nMean TTFT (ms):                          120.25    \n",
        parts=(
            Block(TITLE, lambda data: console(data, backend=False), size=1 << 14),
            Each("Namespace(", arguments, weak=True),
        ),
        finish=number_parts,
    ),
    Format(
        name="vllm-bench-json",
        kind="inference",
        title="vllm bench serve, JSON",
        example='{"backend": "vllm", "model_id": "m-1", "request_rate": "inf", "duration": 2.0, "completed": 4, '
        '"request_throughput": 2.0, "mean_ttft_ms": 50.5, "p99_ttft_ms": 80.5}',
        sniff=('"request_throughput"', '"model_id"'),
        document=_document,
        finish=number_parts,
    ),
)
