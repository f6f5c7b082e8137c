"""How an endpoint is asked: the parameters of a case, as its program reads them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hpcbench.errors import ConfigError
from hpcbench.inference import mmlu, prompts, summary
from hpcbench.inference.load import Pattern
from hpcbench.inference.prompts import Prompt

_STREAMS = 512  # that one event loop takes in: at 50 tokens/s each some 25,000 tokens/s, half of what it can do
_RATE = 500.0  # requests a second, likewise


@dataclass(frozen=True)
class Settings:
    """The parameters of the same names."""

    concurrency: int
    until_saturated: bool
    requests: int
    max_tokens: int
    pattern: Pattern
    rate: float
    trace: str
    warmup: int
    duration: float
    max_failures: float
    retries: int
    timeout: float
    cold_wait: float
    stream: bool
    temperature: float
    seed: int
    vary_prefix: bool
    slo: str
    clients: int
    continuous_batching: bool
    model_folder: str
    protocol: str = ""  # of MMLU alone

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Settings:
        """Read the parameters of a case; raises `UsageError` where they do not fit each other."""
        settings = cls(**{each.name: parameters[each.name] for each in fields(cls) if each.name in parameters})
        summary.limits(settings.slo)
        return settings

    @property
    def processes(self) -> int:
        """How many clients send: as many as were asked for, else as the load needs, on half of the cores.

        One for each 512 streams, or for each 500 requests a second.
        """
        closed = self.pattern == "closed"
        if self.clients:
            return min(self.clients, self.concurrency) if closed else self.clients
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        needed = math.ceil(self.concurrency / _STREAMS if closed else self.rate / _RATE)
        return max(1, min(needed, usable // 2))

    def times(self) -> list[float]:
        """Read the trace: a time in seconds on each line, rising; nothing where there is none."""
        if not self.trace:
            return []
        try:
            times = [float(line) for line in Path(self.trace).read_text(encoding="utf-8").split()]
        except (OSError, ValueError) as error:
            raise ConfigError(f"no trace of one time in seconds a line: {error}", self.trace) from None
        if not times or times != sorted(times):
            raise ConfigError("the times of a trace have to rise", self.trace)
        return times


def of_case(kind: str, case: Mapping[str, Any]) -> tuple[Settings, list[Prompt]]:
    """Read how a case asks, and what; raises `ConfigError` or `UsageError`."""
    parameters = case["parameters"]
    settings = Settings.of(parameters)
    # what a server has cached of one point or repeat of a sweep must not help at another; sites are asked the same
    point = json.dumps([case.get("run"), case.get("repeat", 1), parameters], sort_keys=True)
    varied = {**parameters, "round": point}
    if kind != "mmlu":
        return settings, prompts.make(kind, varied, settings.warmup + settings.requests)
    asked = mmlu.prompts(varied)
    return replace(settings, requests=len(asked) - settings.warmup), asked
