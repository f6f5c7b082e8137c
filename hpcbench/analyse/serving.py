"""What the requests to an endpoint say together: percentiles, and whether they wait for one another."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.analyse.counters import Counter, by_row
from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import COUNTED, rows

if TYPE_CHECKING:
    from hpcbench.metrics import Metrics

TIMES = {  # as counters begin; their rest is one of SPREAD
    "ttft": "time to first token", "ttfo": "time to first token that is no reasoning", "tpot": "time per output token",
    "chunk_gap": "time between chunks", "latency": "latency", "latency_from_schedule": "latency from schedule",
    "schedule_delay": "delay of sending", "server_ttft": "time to first token as the server says",
    "server_latency": "latency as the server says",
}  # fmt: skip
SPREAD = ("mean", "median", "p90", "p95", "p99", "min", "max")
WHOLE = {  # counters of all requests of a case
    "requests": "requests", "failed_requests": "failed", "retries": "sent again", "requests_per_second": "requests/s",
    "output_tokens_per_second": "tokens/s", "steady_tokens_per_second": "tokens/s, steady",
    "goodput": "good requests/s", "good_share": "good, share of all", "cold_start": "cold start (s)",
    "network_and_gateway_mean": "network and gateway, mean (s)",
    "client_error_ttft_p99": "client's error of the first token, p99 (s)",
    "client_error_latency_p99": "client's error of the latency, p99 (s)",
}  # fmt: skip
_NO_MORE = 1.2  # times the requests a second: less is next to none gained
_AS_MANY = 0.75  # of the factor of streams: a latency that grows by more has waited its turn


def request_counters(metrics: Metrics, comparison: Comparison) -> list[tuple[Row, dict[str, Counter]]]:
    """Return the counters of every row whose cases measured an endpoint."""
    found = by_row(metrics, comparison, "hpcbench-records")
    return [(row, counters) for row, counters in found if {"requests", "success_rate"} <= counters.keys()]


def serialised(metrics: Metrics) -> list[tuple[str, str]]:
    """Return case and sentence where more streams bring no more requests a second and each waits for the others.

    Cases of one run are held against the one that is the same but for fewer streams, repeats by their mean: experiment
    E2 of a server with a single instance of its model.
    """
    if "concurrency" not in metrics.cases:
        return []
    medians = _latencies(metrics)
    rates = _rates(metrics)
    groups: dict[tuple[Any, ...], dict[int, list[str]]] = {}
    parameters = metrics.parameters
    for case in rows(metrics.cases):
        key = (case.run, case.case)
        if case.state in COUNTED and key in medians and key in rates and case.concurrency == case.concurrency:
            same = tuple(str(getattr(case, name, "")) for name in parameters if name != "concurrency")
            of_streams = groups.setdefault((case.run, case.site, same), {})
            of_streams.setdefault(int(case.concurrency), []).append(case.case)
    told = []
    for (run, *_), found in groups.items():
        for (fewer, ones), (more, others) in itertools.pairwise(sorted(found.items())):
            gained = _mean(rates, run, others) / _mean(rates, run, ones)
            slower = _mean(medians, run, others) / _mean(medians, run, ones)
            if gained < _NO_MORE and slower > _AS_MANY * more / fewer:
                told.append((others[0], (
                    f"{more} streams in place of {fewer} give {gained:.2f} times the requests a second, and each takes "
                    f"{slower:.1f} times as long (median): the server takes them one after another, or is full"
                )))  # fmt: skip
    return told


def _mean(values: Mapping[tuple[str, str], float], run: str, cases: Sequence[str]) -> float:
    return float(np.mean([values[run, case] for case in cases]))


def _latencies(metrics: Metrics) -> dict[tuple[str, str], float]:
    owner = metrics.owners()
    values: dict[tuple[str, str], list[float]] = {}
    for request in rows(metrics.requests):
        if getattr(request, "phase", "") == "measured" and not request.error and request.source in owner:
            values.setdefault(owner[request.source], []).append(request.latency)
    return {case: float(np.nanmedian(each)) for case, each in values.items() if np.isfinite(each).any()}


def _rates(metrics: Metrics) -> Mapping[tuple[str, str], float]:
    owner = metrics.owners()
    named = metrics.counters[metrics.counters["name"] == "requests_per_second"]
    return {owner[each.source]: each.value for each in rows(named) if each.source in owner and each.value > 0}
