"""Logs of MMLU that tests write, in the form of what the programs leave: answers, requests, phases, counters."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import written

from hpcbench.workloads.mmlu.scores import scores

LETTERS = "ABCD"
LOGS = dict.fromkeys(("stdout.log", "answers.jsonl", "requests.jsonl"), "hpcbench-records")


def answer(subject: str, number: int, choice: str, **columns: Any) -> dict[str, Any]:
    """Make the answer to a question, of which the right one is that of its number: A, B, C, D, A, …"""
    right = LETTERS[number % 4]
    return {
        "record": "answer", "task": "mmlu", "subject": subject, "number": number,
        "question": hashlib.sha256(f"{subject} {number}".encode()).hexdigest()[:16], "prompt": "0123456789abcdef",
        "choice": choice, "answer": right, "correct": int(choice == right), "shots": 5, "cut": 0,
        "protocol": "log-likelihood", **columns,
    }  # fmt: skip


def answers(subject: str, count: int, right: int, **columns: Any) -> list[dict[str, Any]]:
    """Make the answers to the questions of a subject, the first `right` of them right and the others one letter off."""
    return [answer(subject, n, LETTERS[(n + (n >= right)) % 4], **columns) for n in range(count)]


def requests(
    subject: str, count: int, right: int, seconds: float, start: float = 0.0, **columns: Any
) -> list[dict[str, Any]]:
    """Make the requests for the questions of a subject, one after another, which take `seconds` together."""
    each = seconds / count
    return [
        {**row, "record": "request", "phase": "measured", "error": "", "status": "200", "latency": each,
         "started": start + n * each, "finished": start + (n + 1) * each, "output_tokens": 1,
         "protocol": "generated letter"}
        for n, row in enumerate(answers(subject, count, right, **columns))
    ]  # fmt: skip


def phases(process: int, start: float, durations: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Make the events of one process, its phases one after another: (``import``, 2.5 s), (``model``, 1 s), …"""
    rows = []
    for word, duration in durations:
        for edge in ("start", "end"):
            rows.append({"record": "event", "kind": f"{word}_{edge}", "time": start, "process": process})
            start += duration if edge == "start" else 0
    return rows


def counters(**values: float) -> Iterator[dict[str, Any]]:
    """Make counters."""
    return ({"record": "counter", "name": name, "value": value, "unit": ""} for name, value in values.items())


def case(
    folder: Path,
    wall: float,
    said: Sequence[Mapping[str, Any]] = (),
    *,
    answers: Sequence[Mapping[str, Any]] = (),
    requests: Sequence[Mapping[str, Any]] = (),
    used: Mapping[str, float] | None = None,
    **description: Any,
) -> Path:
    """Write a completed case that took `wall` seconds: what its program said, its answers or requests and scores."""
    said = [*said, *({"record": "eval", **row} for row in scores([*answers, *requests]))]
    ending = {**written.COMPLETED, "started": 0.0, "ended": wall, "wall_time": wall, **(used or {})}
    about = {
        "benchmark": "mmlu", "logs": LOGS, "headline": ["wall_time", "questions_per_second", "accuracy", "max_memory"],
        "baseline": {"mode": "sequential"}, "invariant": ["mode", "processes", "batch", "share_cores", "reuse"],
    }  # fmt: skip
    written.case(folder, written.records(*said), ending, **{**about, **description})
    for name, records in (("answers.jsonl", answers), ("requests.jsonl", requests)):
        if records:
            (folder / name).write_text(written.records(*records))
    return folder
