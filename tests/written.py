"""Logs and run folders that tests write: small, in the exact form of what the real programs leave."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpcbench.formats import Record
from hpcbench.parse.content import read_bytes
from hpcbench.parse.content import records as records_of

COMPLETED = {"status": 0, "signal": None, "reason": None, "started": 1000.0, "ended": 1060.5, "host": "node1"}
FAILED = {**COMPLETED, "status": 3}


def llmc(
    times: Iterable[float] | Mapping[int, float],
    validation: Mapping[int, float] | None = None,
    losses: Mapping[int, float] | None = None,
) -> str:
    """Write what llm.c's train_gpt2 prints: step times in ms; validation losses stand before the step of their number.

    The formats are those of train_gpt2.c: ``step %d: train loss %f (took %f ms)`` and ``val loss %f``.
    """
    steps = times if isinstance(times, Mapping) else dict(enumerate(times))
    lines = ["[GPT-2]", "max_seq_len: 1024", "num_layers: 12", "train dataset num_batches: 1192"]
    for step, time in steps.items():
        if validation and step in validation:
            lines.append(f"val loss {validation[step]:f}")
        lines.append(f"step {step}: train loss {(losses or {}).get(step, 5 - step / 50):f} (took {time:f} ms)")
    return "".join(f"{line}\n" for line in lines)


def records(*rows: Mapping[str, Any]) -> str:
    """Write rows as hpcbench's own workloads print them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def steps(times: Iterable[float], warmup: int = 1, **columns: Any) -> list[dict[str, Any]]:
    """Make step records: times in s, the first `warmup` of them marked."""
    return [
        {"record": "step", "step": step, "step_time": time, "warmup": step < warmup, **columns}
        for step, time in enumerate(times)
    ]


def read(name: str, data: bytes | str) -> tuple[list[Record], int]:
    """Read text as one format: its records in the order of their lines, and how many lines could not be read."""
    content = read_bytes(data.encode() if isinstance(data, str) else data, [name])
    found = records_of(content)
    for record in found:
        record.values.pop("format", None)
    return found, content.unread


def case(folder: Path, log: str, ending: Mapping[str, Any] | None = COMPLETED, **description: Any) -> Path:
    """Write the folder of a case: ``case.json``, its log and, where it ended, its exit record."""
    folder.mkdir(parents=True)
    said = {"run": folder.parent.name, "case": folder.name, "site": "local", "benchmark": "toy", "repeat": 1}
    said |= {"logs": {"stdout.log": "hpcbench-records"}, "headline": ["step_time"]}
    (folder / "case.json").write_text(json.dumps({**said, **description}))
    (folder / "stdout.log").write_text(log)
    if ending is not None:
        # each on a machine of its own: at the same time on one they would disturb each other, and the report say so
        (folder / "exit.json").write_text(json.dumps({**ending, "host": f"node-{folder.name}"}) + "\n")
    return folder


def run(folder: Path, **record: Any) -> Path:
    """Make a run of the case folders that are in `folder`."""
    cases = sorted(file.parent.name for file in folder.glob("*/case.json"))
    said = {"schema": "hpcbench/run/1", "run": folder.name, "created": 1.7e9, "benchmark": "toy", "cases": cases}
    (folder / "run.json").write_text(json.dumps({**said, **record}))
    return folder


def sweep(folder: Path, times: Mapping[int, Iterable[Iterable[float]]], **record: Any) -> Path:
    """Make a run over `threads`, each with the step times of its repeats."""
    for threads, repeats in times.items():
        for repeat, each in enumerate(repeats, 1):
            parameters = {"threads": threads, "batch": 4}
            case(
                folder / f"{threads}-{repeat}",
                records(*steps(each)),
                parameters=parameters,
                repeat=repeat,
                baseline={"threads": 1},
            )
    return run(folder, **record)
