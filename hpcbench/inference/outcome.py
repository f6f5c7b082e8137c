"""What came of a measurement, as the records that a case's program prints: figures, doubts, and the exit status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcbench.errors import SiteError
from hpcbench.inference import calibrate, mmlu, summary
from hpcbench.inference.negotiate import Accepted
from hpcbench.inference.relay import relay
from hpcbench.inference.settings import Settings

STOPPED = 130  # exit status, as after Ctrl-C
TOLD = "it was told to stop"


@dataclass
class Measured:
    """What is known when the load has ended. `blocks` are those of this attempt, earlier ones have lower numbers."""

    accepted: Accepted
    client: summary.Clients
    stopped: str
    blocks: range


def tell(rows: summary.Rows, settings: Settings, measured: Measured, most: int) -> int:
    """Print what came of it, as records; returns the exit status, and raises `SiteError` where no request succeeded.

    `most` is how many tokens a request asks for at most.
    """
    accepted, client = measured.accepted, measured.client
    rows = summary.answered(rows)
    for name, why in accepted.dropped.items():
        say("event", kind="field_dropped", message=f"{name}: {why}")
    if accepted.cold_start:
        say("counter", name="cold_start", value=accepted.cold_start, unit="s")
    held = relay(_arrivals(row) for row in summary.succeeded(rows))
    if held is not None:
        said = (
            f"chunks come in groups of {held.size:.0f} every {held.interval:.2f} s: a gateway passes them on, so the "
            "time to the first token is its own, and times between tokens are not told"
        )
        say("event", kind="relay", message=said)
        rows = [{key: value for key, value in row.items() if key not in ("tpot", "arrivals_us")} for row in rows]
    limits = summary.limits(settings.slo)
    for name, (value, unit) in summary.summarise(rows, limits).items():
        say("counter", name=name, value=value, unit=unit)
    for name, value, unit in (
        ("clients", len(client.fared), ""), ("client_cpu", client.cpu, "s"),
        ("client_lag_p99", client.worst("lag_p99"), "s"), ("client_lag_max", client.worst("lag_max"), "s"),
        ("connections", sum(each.connections for each in client.fared), ""), ("client_cpu_stolen", client.stolen, ""),
    ):  # fmt: skip
        say("counter", name=name, value=value, unit=unit)
    good = summary.succeeded(rows)
    for record, row in mmlu.records(good):
        say(record, **row)
    for note in [*summary.notes(rows, limits), *mmlu.notes(good), *_notes(rows, settings, measured)]:
        say("event", kind="note", message=note)
    reasons = summary.doubts(rows, client, measured.stopped, most)
    for reason in reasons:
        say("event", kind="invalid", message=f"INVALID: {reason}")
    if not reasons:
        say("event", kind="valid", message="VALID")
    failed = sum(row["phase"] == summary.MEASURED for row in rows) - len(good)
    if measured.stopped == TOLD:
        return STOPPED
    if not good:
        first = next((row["error"] for row in rows if row["error"]), "none was sent")
        raise SiteError(f"no request succeeded: {first}")
    say("event", kind="finished", time=time.time())
    if failed:
        print(f"{failed} of {failed + len(good)} requests failed: {summary.causes(rows)}", file=sys.stderr)
    return 4 if failed else 0


def _notes(rows: Sequence[Mapping[str, Any]], settings: Settings, measured: Measured) -> Iterator[str]:
    """Tell what a reader has to know of how this was measured, its error bar included."""
    mine = [row for row in summary.succeeded(rows) if row["block"] in measured.blocks]
    others = len(summary.succeeded(rows)) - len(mine)
    if others:
        yield f"{others} of the requests are of attempts before: what is said of the client is not of them"
    if len(measured.blocks) > 1 and settings.concurrency > 1:
        yield (
            f"tokens/s hold the filling and emptying of all streams in each of {len(measured.blocks)} turns; "
            "steady_tokens_per_second does not"
        )
    if settings.duration and not measured.stopped and measured.client.wall < 0.95 * settings.duration:
        yield f"all {settings.requests} requests ended before {settings.duration:g} s: --requests asks for more"
    rate = sum(row.get("output_tokens") or 0 for row in mine) / max(measured.client.wall, 1e-9)
    if (error := calibrate.known(summary.streams(mine), rate)) is None:
        yield "this client was not held against the truth at this load: hpcbench calibrate"
    else:
        say("counter", name="client_error_ttft_p99", value=error.ttft_p99, unit="s")
        say("counter", name="client_error_latency_p99", value=error.latency_p99, unit="s")
        yield (
            f"this client's own error (p99) was {1000 * error.ttft_p99:.2f} ms of the time to the first token and "
            f"{1000 * error.latency_p99:.2f} ms of the latency at {error.streams} streams when it was calibrated"
            f"{error.day and f' on {error.day}'}"
        )


def _arrivals(row: Mapping[str, Any]) -> list[float]:
    return list(np.cumsum(row.get("arrivals_us") or [0.0]) / 1e6)


def say(record: str, **fields: Any) -> None:
    """Print a record."""
    sys.stdout.write(json.dumps({"record": record, **fields}) + "\n")
    sys.stdout.flush()
