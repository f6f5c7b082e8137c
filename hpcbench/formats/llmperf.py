"""llmperf (ray-project): the summary JSON of `token_benchmark_ray.py`."""

from __future__ import annotations

import re

from hpcbench.formats import Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, measured, number, number_parts, parameters, statistic

_TOTALS = {
    "num_concurrent_requests": "max_concurrency",
    "results_num_requests_started": "requests",
    "results_num_completed_requests": "completed",
    "results_number_errors": "failed",
    "results_error_rate": "failed_share",
    "results_mean_output_throughput_token_per_s": "output_tokens_per_second",
}
_PARAMETERS = {
    "model": "model",
    "num_concurrent_requests": "concurrency",
    "mean_input_tokens": "input_tokens",  # what was asked for, not what was counted
    "mean_output_tokens": "output_tokens",
}
_MEASURED = {
    "ttft_s": "ttft",
    "end_to_end_latency_s": "latency",
    "inter_token_latency_s": "latency_per_token",  # the whole latency / output tokens, the first one's wait included
    "request_output_throughput_token_per_s": "request_output_tokens_per_second",
    "number_input_tokens": "input_tokens",
    "number_output_tokens": "output_tokens",
}
_STATISTIC = re.compile(rf"results_({'|'.join(_MEASURED)})_(?:quantiles_)?(p\d\d|mean|min|max|stddev)")


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for run, at in text.objects("results_ttft_s_mean", "results_end_to_end_latency_s_mean"):
        found: list[tuple[int, str, float]] = []
        groups: dict[str, dict[str, tuple[int, float]]] = {}
        place = at
        for key, value in run.items():
            place = text.after(key, place)
            line = text.line(place)
            if key in _TOTALS:
                found.append((line, _TOTALS[key], number(value)))
            elif key == "results_num_completed_requests_per_min":
                found.append((line, "requests_per_second", number(value) / 60))
            elif match := _STATISTIC.fullmatch(key):
                groups.setdefault(_MEASURED[match[1]], {})[str(statistic(match[2]))] = (line, number(value))
        for name, each in groups.items():
            known = measured({short: value for short, (_, value) in each.items()})
            found += [(each[short][0], f"{name}_{short}", value) for short, value in known.items()]
        records += counters(sorted(found, key=lambda row: row[0]))
        records += parameters(text.line(at), {name: run.get(key) for key, name in _PARAMETERS.items()})
    return records, 0 if records else 1


FORMATS = (
    Format(
        name="llmperf",
        kind="inference",
        title="llmperf summary, JSON",
        example='{"num_concurrent_requests": 2, "results_ttft_s_mean": 0.25, "results_ttft_s_quantiles_p99": 0.5, '
        '"results_end_to_end_latency_s_mean": 1.5}',
        sniff=('"results_ttft_s_mean"', '"results_end_to_end_latency_s_mean"'),
        document=_document,
        finish=number_parts,
    ),
)
