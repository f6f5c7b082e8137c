"""``python -m mmlu``: answer MMLU with a local model, and print what was measured as JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from . import processes, questions
from .prompts import STYLES
from .questions import DataError
from .scores import scores
from .worker import PROTOCOL

ANSWERS = "answers.jsonl"
_Name = tuple[str, int, str]  # of a question: its subject, its number there, its prompt


def main(arguments: Sequence[str]) -> int:
    """Answer the questions that are not answered yet, and print records; returns the exit status."""
    options = _options(arguments)
    try:
        names = questions.names(options.data, options.subjects)
    except DataError as error:
        _fail(str(error))
    planned = processes.layout(options.mode, names, options.processes, options.device)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, usable // planned.at_once) if options.share_cores == "true" else usable
    earlier = dict(_earlier())
    with Path(ANSWERS).open("w", encoding="utf-8") as file:
        for note in _partial(options.subjects, names):
            emit("event", kind="note", time=time.time(), message=note)
        record = _Record(file, earlier, planned.at_once, options.shots)
        settings = {
            "model": options.model, "data": options.data, "shots": options.shots, "batch": options.batch,
            "dtype": options.dtype, "device": options.device, "limit": options.limit, "style": options.style,
            "seed": options.seed, "reuse": options.reuse == "true",
            "done": tuple(earlier),
        }  # fmt: skip
        try:
            processes.run(planned, settings, threads, record.take)
        except processes.ProcessError as error:
            print(f"mmlu: error: {error}", file=sys.stderr)
            return error.status
    record.finish()
    return 0


class _Record:
    """Turns what the processes say into records: answers go into their file, the rest to standard output."""

    def __init__(self, file: IO[str], earlier: Mapping[_Name, Mapping[str, Any]], at_once: int, shots: int) -> None:
        self._file, self._earlier, self._at_once, self._shots = file, earlier, at_once, shots
        self._answers: list[Mapping[str, Any]] = []
        self._new = 0
        self._began: dict[int, float] = {}  # when a process last began to compute
        self._spans: list[tuple[float, float]] = []
        self._told: set[str] = set()
        self._peaks: list[int] = []
        self._device_peak = 0
        self._sums: dict[str, int] = {}

    def take(self, process: int, message: Mapping[str, Any]) -> None:
        """Take a message of a process."""
        facts = {key: value for key, value in message.items() if key not in ("kind", "time")}
        kind, when = str(message["kind"]), message["time"]
        if kind == "answers":
            self._new += len(facts["rows"])
            own = {"process": process, "protocol": PROTOCOL}
            self._keep({"record": "answer", "task": "mmlu", **row, **own} for row in facts["rows"])
        elif kind == "kept":
            self._keep(self._earlier[tuple(name)] for name in facts["names"])
        elif kind == "counters":
            for name, value in facts.items():
                if name == "max_memory":
                    self._peaks.append(value)
                elif name == "max_device_memory":
                    self._device_peak = max(self._device_peak, value)
                else:
                    self._sums[name] = self._sums.get(name, 0) + value
        elif kind == "environment":
            if kind not in self._told:
                emit("event", kind="environment", time=when, message=json.dumps(facts))
            self._told.add(kind)
        elif kind in ("note", "check"):
            if facts["message"] not in self._told:
                emit("event", kind="note" if kind == "note" else "reuse", time=when, message=facts["message"])
            self._told.add(facts["message"])
        else:
            if kind in ("prefill_start", "score_start"):
                self._began[process] = when
            elif kind in ("prefill_end", "score_end"):
                self._spans.append((self._began[process], when))
            emit("event", kind=kind, time=when, process=process)

    def _keep(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            self._file.write(json.dumps(row) + "\n")
            self._answers.append(row)
        self._file.flush()

    def finish(self) -> None:
        """Print what it all adds up to."""
        if self._new and (seconds := _covered(self._spans)):
            emit("counter", name="questions_per_second", value=self._new / seconds, unit="questions/s")
        emit("counter", name="processes", value=len(self._peaks), unit="")
        if self._peaks:
            emit("counter", name="max_memory", value=max(self._peaks), unit="B")
            together = sum(sorted(self._peaks)[-self._at_once :])
            emit("counter", name="processes_memory", value=together, unit="B")
        if self._device_peak:
            emit("counter", name="max_device_memory", value=self._device_peak, unit="B")
        for name, value in self._sums.items():
            emit("counter", name=name, value=value, unit="tokens")
        if before := len(self._answers) - self._new:
            emit("counter", name="answers_before", value=before, unit="")
        for note in self._notes(before):
            emit("event", kind="note", time=time.time(), message=note)
        for row in scores(self._answers):
            emit("eval", **row)
        emit("event", kind="finished", time=time.time())

    def _notes(self, before: int) -> Iterator[str]:
        count = len(self._answers)
        if before:
            yield f"{before} answers are of attempts before: what is said of times and memory is not of them"
        fewer = sum(row["shots"] < self._shots for row in self._answers)
        cut = sum(bool(row["cut"]) for row in self._answers) - fewer
        if fewer:
            yield f"{fewer} of {count} prompts were longer than the context: they have fewer shots"
        if cut:
            yield f"{cut} of {count} prompts were longer than the context: their beginnings were left out"


def _partial(subjects: str, names: Sequence[str]) -> Iterator[str]:
    """Tell of the groups that are asked for and not whole."""
    for word in (each.strip() for each in subjects.split(",")):
        whole = questions.GROUPS.get(word, ())
        there = sum(name in names for name in whole)
        if there < len(whole):
            yield f"{there} of the {len(whole)} subjects of {word} are in the data"


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return for how long at least one span lasted."""
    whole = end = 0.0
    for first, last in sorted(spans):
        whole += max(0.0, last - max(first, end))
        end = max(end, last)
    return whole


def _earlier() -> Iterator[tuple[_Name, dict[str, Any]]]:
    """Yield the answers of attempts before this one; a line that a crash cut short is left out."""
    for file in sorted(Path().glob(f"attempt-*/{ANSWERS}")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                if {"question", "choice", "correct", "shots", "cut"} <= row.keys():
                    yield (str(row["subject"]), int(row["number"]), str(row["prompt"])), row
            except (ValueError, LookupError, TypeError, AttributeError):
                continue


def emit(record: str, **facts: Any) -> None:
    """Print a record."""
    sys.stdout.write(json.dumps({"record": record, **facts}) + "\n")
    sys.stdout.flush()


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Leave as every other mistake does."""
        _fail(message)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="mmlu", description="Answer MMLU with a local model.", allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    option = parser.add_argument
    option("--model", required=True, help="folder of a model, or its name on the hub")
    option("--data", default="cais/mmlu", help="folder of CSV files, or a data set of the hub")
    option("--subjects", default="all", help="subjects and groups (stem, humanities, social_sciences, other), or all")
    option("--shots", type=_from_to(0, 5), default=5, help="answered questions before each")
    option("--mode", choices=processes.MODES, default="batched", help="how the work is laid out on processes")
    option("--processes", type=_from_to(0, 4096), default=0, help="of the modes parallel and replicas; 0: as suits")
    option("--batch", type=_batch, default=0, help="questions computed together; auto: as many as suit the device")
    option("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto", help="auto: the model's own")
    option("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where there is one")
    option("--limit", type=_from_to(0, 10**9), default=0, help="questions of each subject; 0: all")
    option("--style", choices=STYLES, default="harness", help="how questions are put")
    option("--seed", type=_from_to(0, 10**18), default=0, help="draws questions and shots; 0: the first ones")
    option("--share-cores", choices=("true", "false"), default="true", help="false: each process takes all cores")
    option("--reuse", choices=("true", "false"), default="true", help="false: each prompt is computed as a whole")
    return parser.parse_args(arguments)


def _from_to(least: int, most: int) -> Any:
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, found {text!r}")
        return int(text)

    return whole


def _batch(text: str) -> int:
    return 0 if text == "auto" else int(_from_to(1, 10**9)(text))


def _fail(message: str) -> NoReturn:
    print("mmlu: error:", *message.split(), file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
