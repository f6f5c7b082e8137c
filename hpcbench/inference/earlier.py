"""What the cases of a run that came before tell of the one to come: that it need not be measured, or cannot be new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_ASKED = (
    "seed", "data", "split", "prompts", "input_tokens", "vary_prefix", "subjects", "shots", "limit", "style",
)  # fmt: skip
_GAIN = 1.05  # times the tokens a second: less than that is what two measurements of the same differ by


def saturated(case: Mapping[str, Any], run: Path) -> str:
    """Tell by the cases of a `run` that are the same but for fewer streams that more bring nothing; or say ''.

    The two with the most streams are compared. Those that did not come to their end count for nothing.
    """
    rates = dict(sorted(_rates(case, run)))
    if len(rates) < 2:
        return ""
    (fewer, before), (more, after) = list(rates.items())[-2:]
    if after >= _GAIN * before:
        return ""
    return f"not measured: {after:.1f} tokens/s came at concurrency {more}, and {before:.1f} at {fewer}"


def asked_before(case: Mapping[str, Any], run: Path) -> str:
    """Tell which case of a `run` sent the same prompts to the same endpoint, which may have kept them; or say ''."""
    if "endpoint" not in case or case["parameters"].get("vary_prefix"):
        return ""  # a server of its own, or prompts of its own
    for file in sorted(run.glob("*/requests.jsonl")):
        try:
            other = json.loads(file.with_name("case.json").read_text(encoding="utf-8"))
            same = other["endpoint"] == case["endpoint"] and _prompts(other) == _prompts(case)
            earlier = other["case"] < case["case"] and file.stat().st_size > 0
        except (OSError, ValueError, LookupError, TypeError):
            continue  # damaged
        if same and earlier:
            return (
                f"case {other['case']} sent the same prompts before: a cache of prefixes would answer them faster, "
                "--vary-prefix true leaves it nothing"
            )
    return ""


def _prompts(case: Mapping[str, Any]) -> list[Any]:
    """Return the parameters that prompts are made of."""
    return [case["parameters"].get(name) for name in _ASKED]


def _rates(case: Mapping[str, Any], run: Path) -> Iterator[tuple[int, float]]:
    """Yield streams and tokens a second of the cases with fewer of them."""
    for file in run.glob("*/case.json"):
        try:
            other = json.loads(file.read_text(encoding="utf-8"))
            said = [json.loads(line) for line in file.with_name("stdout.log").read_text(encoding="utf-8").splitlines()]
            streams = other["parameters"]["concurrency"]
            same = _but_for_streams(other) == _but_for_streams(case)
        except (OSError, ValueError, LookupError, TypeError):
            continue  # not there yet, or damaged
        rate = next((each["value"] for each in said if each.get("name") == "output_tokens_per_second"), None)
        if same and rate is not None and streams < case["parameters"]["concurrency"] and _ended(said):
            yield streams, rate


def _but_for_streams(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return case["site"], case["repeat"], {**case["parameters"], "concurrency": None}


def _ended(said: list[dict[str, Any]]) -> bool:
    return any(each.get("kind") == "finished" for each in said)
