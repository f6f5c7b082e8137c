"""Hugging Face Trainer: the dicts and blocks it prints, trainer_state.json, and all_results.json and its kin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hpcbench.formats import Block, Each, Format, Reading, Record, duration, in_si
from hpcbench.metrics import RESERVED, TABLES
from hpcbench.rows import Tables

Rows = list[tuple[str, dict[str, Any]]]

_DICT = re.compile(rb"\{'[^{}\n]{1,20000}\}")
_PAIR = re.compile(rb"'([^'\n]{1,80})': ('?)([^',{}\n]{1,60})\2(?=[,}])")  # newer versions quote the numbers
_TRAIN = {"learning_rate": "lr", "num_input_tokens_seen": "tokens"}
_NOT_PASSED_ON = (RESERVED | set(TABLES["steps"])) - {"step", "epoch", "loss", "grad_norm", "step_time"}
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,40}")
_TASKS = {"eval": "validation", "test": "test", "predict": "prediction"}
_TASK = re.compile(r"(eval|test|predict)_(?:(.{1,100})_)?runtime")
_UNITS = {
    "runtime": "s", "samples_per_second": "samples/s", "steps_per_second": "steps/s", "tokens_per_second": "tokens/s",
    "total_flos": "FLOP",
}  # fmt: skip
_LONGEST = 16 << 10  # bytes of a line
_LARGEST, _MOST = 1 << 20, 1000  # bytes and keys of a file of results
_SPEEDS = {"runtime": "duration", "samples_per_second": "samples_per_second", "steps_per_second": "steps_per_second"}


def _dicts(line: bytes, begin: bytes) -> Rows | None:
    """Read the dicts of a line that begin so: several ranks may have written one each."""
    if len(line) > _LONGEST:
        return None  # of such a line pieces are given that overlap
    rows: Rows = []
    whole = False
    for match in _DICT.finditer(line):
        if not match[0].startswith(begin):
            continue
        whole = True
        entry = {}
        for key, _, text in _PAIR.findall(match[0]):
            try:
                entry[key.decode()] = in_si(text.strip())
            except ValueError:  # a text; "1/60" in the key of the steps done so far
                if key == b"global_step/max_steps" and text.partition(b"/")[0].isdigit():
                    entry["step"] = float(text.partition(b"/")[0])
        rows += _rows(entry) if "epoch" in entry else []
    return rows if rows or whole else None


def _console(begin: str) -> Each:
    return Each(begin, lambda line: _dicts(line, begin.encode()))


def _rows(entry: Mapping[str, float]) -> Rows:
    """Turn one logged dict into rows: a step, the scores of an evaluation, or the summary of a training."""
    if "loss" in entry and entry.keys() & {"learning_rate", "grad_norm", "step"}:
        row = {_TRAIN.get(key, key): value for key, value in entry.items() if _passes(key)}
        return [("steps", row)]
    if "train_runtime" in entry:
        return [("counters", row) for _, row in _summary(entry)]
    return [("evals", row) for _, row in _scores(entry)]


def _passes(key: str) -> bool:
    return _COLUMN.fullmatch(key) is not None and key not in _NOT_PASSED_ON


def _summary(entry: Mapping[str, float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and row of each number of a whole training."""
    for key, value in entry.items():
        if key.startswith("train_") or key == "total_flos":
            unit = "B" if "_mem_" in key else _UNITS.get(key.removeprefix("train_"), "")
            yield key, {"name": key, "value": value, "unit": unit}


def _scores(entry: Mapping[str, float]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the key and row of each score. The first row of an evaluation also has how long it took."""
    named = [match for key in entry if (match := _TASK.fullmatch(key))]
    if not named:
        return
    kind, subject = named[0].groups()
    prefix = named[0][0].removesuffix("runtime")
    common: dict[str, Any] = {"task": _TASKS[kind]} | ({"subject": subject} if subject else {})
    common |= {key: entry[key] for key in ("epoch", "step") if key in entry}
    if f"{prefix}samples" in entry:
        common["count"] = entry[f"{prefix}samples"]
    speeds = {column: entry[prefix + key] for key, column in _SPEEDS.items() if prefix + key in entry}
    for key, value in entry.items():
        metric = key.removeprefix(prefix) if key.startswith(prefix) else "perplexity" if key == "perplexity" else ""
        if not metric or metric in _SPEEDS or metric in ("samples", "model_preparation_time"):
            continue
        yield key, {**common, "metric": metric, "value": value, **speeds}
        speeds = {}


# --- the blocks of `log_metrics` ---

_HEAD = re.compile(rb"\*{5} \w{1,80} metrics \*{5}")
_ENTRY = re.compile(rb"(?:^|[ \t])([A-Za-z][\w.-]{0,80}) *= *([^\s=][^=]{0,40}?)[ \t\r]*$")
_LONGEST_ENTRY = 500
_CLOCK = re.compile(r"(?:(\d{1,4}) days?, )?(\d{1,2}:\d\d:\d\d\.\d\d)", re.ASCII)
_WHOLE = re.compile(r"(-?\d{1,15})(GF|MB)", re.ASCII)  # GF are 2 ** 30 operations
_SIZES = {"GF": 1 << 30, "MB": 1 << 20}


def _block(data: bytes) -> Reading:
    """Read ``***** train metrics *****`` and the lines below, which say what all_results.json says, but rounded."""
    head, *lines = data.split(b"\n")
    if _HEAD.search(head[:_LONGEST_ENTRY]) is None:
        return [], 0
    entry: dict[str, float] = {}
    places: dict[str, int] = {}
    unread = 0
    for number, line in enumerate(lines, 2):
        match = _ENTRY.search(line) if len(line) < _LONGEST_ENTRY else None
        if match is None:
            break
        if number > len(lines):  # no line break ends it: it may have been cut
            unread = 1
            break
        try:
            value = _printed(match[2].decode(errors="replace"))
        except ValueError:  # a text
            continue
        key = match[1].decode()
        entry[key], places[key] = value, number
    rows = [("counters", *each) for each in _summary(entry)] + [("evals", *each) for each in _scores(entry)]
    return [Record(table, places[key], {**row, "rounded": 1}) for table, key, row in rows], unread


def _printed(text: str) -> float:
    """Read ``0:01:02.34``, ``1 day, 0:01:02.34``, ``12GF``, ``34MB`` or a number; raises `ValueError` for others."""
    if match := _CLOCK.fullmatch(text):
        return 86400 * int(match[1] or 0) + duration(match[2])
    if match := _WHOLE.fullmatch(text):
        return float(int(match[1]) * _SIZES[match[2]])
    return in_si(text)


def _settle(tables: Tables) -> None:
    """Leave out of the blocks what a dict of the same log says in full."""
    for table, keys in (("counters", ("name",)), ("evals", ("task", "subject", "metric"))):
        rows = tables.get(table)
        if rows is None or "rounded" not in rows:
            continue
        rounded = (rows.numbers("rounded") == 1).tolist()
        del rows.columns["rounded"]
        said = [str(each) for each in zip(*(rows[key].tolist() for key in keys), strict=True)]
        in_full = {each for each, again in zip(said, rounded, strict=True) if not again}
        kept = [not again or each not in in_full for each, again in zip(said, rounded, strict=True)]
        tables[table] = rows.where(np.array(kept))


# --- files ---


def _state(data: bytes, _name: str) -> Reading:
    """Read the entries of ``log_history`` one by one: of a file that was cut those before the cut are whole."""
    text = data.decode(errors="replace")
    begin = re.search(r'"log_history"\s*:\s*\[', text)
    if begin is None:
        return [], 1
    records: list[Record] = []
    decoder, at, line, counted = json.JSONDecoder(), begin.end(), 1, 0
    space = re.compile(r"[\s,]*")
    while True:
        at = space.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            return records, 0
        try:
            entry, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return records, 1
        line += text.count("\n", counted, at)
        counted, at = at, end
        if isinstance(entry, dict):
            records += [Record(table, line, row) for table, row in _rows(_numbers(entry))]


def _results(data: bytes, _name: str) -> Reading:
    """Read a flat file of results; each row has the line of its key."""
    if len(data) > _LARGEST or b'"log_history"' in data:  # the other kind of file
        return [], 0
    found: Any = json.loads(data)
    if not isinstance(found, dict) or len(found) > _MOST:
        return [], 0
    entry = _numbers(found)
    rows = [("counters", *each) for each in _summary(entry)] if "train_runtime" in entry else []
    rows += [("evals", *each) for each in _scores(entry)]
    text = data.decode(errors="replace")
    return [Record(table, 1 + text.count("\n", 0, max(text.find(f'"{key}"'), 0)), row) for table, key, row in rows], 0


def _numbers(entry: Mapping[str, Any]) -> dict[str, float]:
    """Keep what is a number; one that no float can hold is none."""
    kept = {}
    for key, value in entry.items():
        if isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300):
            kept[key] = float(value)
    return kept


FORMATS = (
    Format(
        name="hf-trainer",
        kind="training",
        title="Hugging Face Trainer, console",
        example="{'loss': 1.1409, 'grad_norm': 2.757542, 'learning_rate': 1.81e-05, 'epoch': 0.91}",
        parts=(
            _console("{'loss': "),
            _console("{'eval_"),
            _console("{'train_runtime': "),
            Block(" metrics *****", _block, size=1 << 16),
        ),
        finish=_settle,
    ),
    Format(
        name="hf-trainer-state",
        kind="training",
        title="Hugging Face trainer_state.json",
        example='{"global_step": 10, "log_history": [{"epoch": 0.5, "learning_rate": 2e-05, "loss": 2.5, "step": 5}]}',
        sniff=('"log_history"', '"global_step"'),
        document=_state,
    ),
    Format(
        name="hf-results",
        kind="training",
        title="Hugging Face all_results.json, train_results.json, eval_results.json",
        example='{"epoch": 10.0, "train_loss": 0.447, "train_runtime": 64358.1, "train_samples_per_second": 0.511}',
        sniff=('_runtime": ', '_samples_per_second": '),
        document=_results,
    ),
)
