"""Times between tokens are left out where a gateway relayed the tokens in groups: they are its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcbench.metrics import Metrics

_BETWEEN_TOKENS = ("tpot", "chunk_gap")


def without_relayed(metrics: Metrics) -> Metrics:
    """Return `metrics` without times between tokens for the cases that have an event of kind `relay`.

    They are NaN among requests, and no counters. Whatever else was measured stays.
    """
    owners = metrics.owners()
    events = metrics.events
    cases = {owners.get(source) for source in events.loc[events["kind"] == "relay", "source"]} - {None}
    if not cases:
        return metrics
    sources = [source for source, case in owners.items() if case in cases]
    requests, counters = metrics.requests, metrics.counters
    columns = [name for name in _BETWEEN_TOKENS if name in requests]
    requests = requests.copy()
    requests.loc[requests["source"].isin(sources), columns] = float("nan")
    between = counters["name"].str.startswith(tuple(f"{name}_" for name in _BETWEEN_TOKENS)).astype(bool)
    return replace(metrics, requests=requests, counters=counters[~(counters["source"].isin(sources) & between)])
