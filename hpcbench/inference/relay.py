"""Relays: gateways that hold tokens back and pass them on in groups, so that their times are the gateway's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

_TOGETHER = 0.001  # seconds within which chunks arrive as one group
_APART = 0.02  # seconds between groups; what a server's own batch of steps takes is less
_SHARE = 0.7  # of the gaps are within a group
_LEAST = 40  # gaps


@dataclass(frozen=True)
class Relay:
    """How chunks are grouped: chunks a group and seconds between groups, both as means."""

    size: float
    interval: float


def relay(answers: Iterable[Sequence[float]]) -> Relay | None:
    """Tell from the arrivals of chunks, seconds for each answer, whether they come in groups; None where they do not.

    ALCF's Sophia passes on at most 20 chunks, or what came in 0.5 s. Chunks of a server alone come one by one, or a few
    at once where several tokens are made in a step.
    """
    within, between = 0, []
    groups = 0
    for chunks in answers:
        groups += bool(chunks)
        for before, after in pairwise(chunks):
            if after - before < _TOGETHER:
                within += 1
            else:
                groups += 1
                between.append(after - before)
    count = within + len(between)
    if count < _LEAST or within < _SHARE * count or not between:
        return None
    interval = sum(between) / len(between)
    return Relay((within + groups) / groups, interval) if interval >= _APART else None
