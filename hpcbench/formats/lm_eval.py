"""lm-evaluation-harness: its results JSON, of all versions, and the table it prints."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpcbench.formats import PRECISIONS, Block, Each, Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, number, parameters

_OUTER = ("config", "configs", "config_general", "config_tasks", "n-shot", "versions", "table_results")
_GROUPS = {"stem", "humanities", "social_sciences", "other"}  # of MMLU
_FAMILIES = {"pro", "flan", "generative", "continuation", "llama", "redux", "prox", "cot"}  # other tasks, not subjects


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for report, at in text.objects("results"):
        if not any(key in report for key in _OUTER):
            continue
        start = text.after("results", at)
        records += _results(text, start, report)
        if records and isinstance(config := report.get("config"), dict):
            arguments = config.get("model_args")
            if isinstance(arguments, dict):  # since 0.4.9
                arguments = ",".join(f"{name}={value}" for name, value in arguments.items())
            found = _setup(str(arguments or ""), config.get("num_fewshot"), config.get("batch_size"))
            found.setdefault("model", report.get("model_name") or config.get("model"))
            records += parameters(text.line(text.after("config", at)), found)
        key = "total_evaluation_time_seconds"
        if records and key in report:  # a number as text
            records += counters([(text.line(text.after(key, at)), "duration", number(report[key]))])
    return records, 0 if records else 1


def _results(text: Text, at: int, report: Mapping[str, Any]) -> list[Record]:
    records = []
    config = report.get("config")
    shots = number(config.get("num_fewshot")) if isinstance(config, dict) else math.nan
    for name, scores in _scores(report["results"]):
        at = text.after(name, at)
        if not _is_scores(scores, report):
            continue
        row: dict[str, Any] = dict(zip(("task", "subject"), _task(name), strict=False))
        own = {
            "shots": _of(report, "n-shot", name, shots),
            "version": _of(report, "versions", name, math.nan),
            "count": _count(report, name),
        }
        row |= {key: value for key, value in own.items() if not math.isnan(value)}
        if isinstance(prompt := scores.get("prompt_name"), str):
            row["prompt"] = prompt
        place = at
        for key, value in scores.items():
            place = text.after(key, place)
            metric, _, kind = key.partition(",")
            if metric.endswith("_stderr") or isinstance(value, str | bool) or math.isnan(number(value)):
                continue
            if metric in ("sample_len", "sample_count", "num_fewshot"):
                continue
            error = number(scores.get(f"{metric}_stderr{',' + kind if kind else ''}"))
            score = {"metric": metric if kind in ("", "none") else key, "value": number(value)}
            known = {} if math.isnan(error) else {"stderr": error}
            records.append(Record("evals", text.line(place), {**row, **score, **known}))
        at = place
    return records


def _scores(results: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield tasks and their scores: a dictionary of them, or a list that names them."""
    if isinstance(results, dict):
        yield from ((name, each) for name, each in results.items() if isinstance(each, dict))
    elif isinstance(results, list):
        for each in results:
            name = each.get("task_name", each.get("task")) if isinstance(each, dict) else None
            if isinstance(name, str):
                yield name, each


def _is_scores(scores: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Tell the scores of a task from what other programs keep under "results"."""
    versions = report.get("versions")
    named = isinstance(versions, dict) and ("n-shot" in report or "config" in report)
    return any(key.endswith("_stderr") or "," in key for key in scores) or named


def _task(name: str) -> tuple[str, ...]:
    """Split the name of a task that is one subject of many: of MMLU, in its old and its new spelling."""
    task, _, subject = name.partition("-")
    if task == "hendrycksTest" and subject:
        return task, subject
    match = re.fullmatch(r"mmlu_(([a-z]+)\w*?)(_generative|_continuation)?", name)  # those ask in other ways
    if match and match[1] not in _GROUPS and match[2].partition("_")[0] not in _FAMILIES:
        return f"mmlu{match[3] or ''}", match[1]
    return (name,)


def _of(report: Mapping[str, Any], key: str, task: str, default: float) -> float:
    values = report.get(key)
    value = number(values.get(task)) if isinstance(values, dict) else math.nan
    return default if math.isnan(value) else value


def _count(report: Mapping[str, Any], task: str) -> float:
    samples = report.get("n-samples")
    own = samples.get(task) if isinstance(samples, dict) else None
    return number(own.get("effective")) if isinstance(own, dict) else math.nan


_MODEL = re.compile(r"(?:^|,)(?:pretrained|model)=([^,()]{1,300})")
_REVISION = re.compile(r"(?:^|,)revision=([^,()]{1,100})")
_DTYPE = re.compile(r"(?:^|,)dtype=(?:torch\.)?(\w{1,20})")


def _setup(arguments: str, shots: object, batch: object) -> dict[str, object]:
    """Return the parameters that the arguments of a model hold, and those beside them."""
    arguments = arguments[:4000]
    found: dict[str, object] = {"shots": shots, "batch": batch}
    for name, pattern in (("model", _MODEL), ("revision", _REVISION), ("precision", _DTYPE)):
        if match := pattern.search(arguments):
            found[name] = PRECISIONS.get(match[1], match[1]) if name == "precision" else match[1]
    return found


_HEAD = re.compile(
    r"(?P<model>[\w.-]{1,60}) \((?P<arguments>.{0,4000}?)\), (?:gen_kwargs: .{0,400}?, )?limit: [^,]{1,40}, "
    r"(?:provide_description: \w{1,10}, )?num_fewshot: (?P<shots>\w{1,10}), batch_size: (?P<batch>[\w.:]{1,20})"
)


def _head(line: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Read the line above the table: the model and how it was asked."""
    match = _HEAD.search(line[:10_000].decode(errors="replace"))
    if match is None:
        return []
    shots, batch = (None if match[name] == "None" else match[name] for name in ("shots", "batch"))
    found = _setup(match["arguments"], shots, batch)
    found.setdefault("model", match["model"])
    return [(record.table, record.values) for record in parameters(1, found)]


# --- the table ---

_RULE = re.compile(r"[|\s:-]+")


def _table(data: bytes) -> Reading:
    """Read the table of tasks; an empty cell means the one above it. That of groups says again what it says."""
    lines = data.decode(errors="replace").split("\n")
    head = [cell.strip() for cell in lines[0].split("|")]
    if not {"Version", "Metric", "Value"} <= set(head) or "Groups" in head:
        return [], 0
    begin = head.index("Version") - 1  # a prefix may stand before the first bar
    known: tuple[str, ...] = ("Version", "Filter", "n-shot", "Metric", "Value", "Stderr")
    columns = {name: head.index(name) for name in known if name in head}
    records, unread = [], 0
    names = {"task": "", "parent": "", "Version": "", "Filter": ""}
    for line, text in enumerate(lines[1:], 2):
        if "|" not in text:
            break
        cells = text.split("|")
        if _RULE.fullmatch(text):
            continue
        if len(cells) < len(head) or not text.rstrip().endswith("|"):
            unread += 1
            continue
        own = cells[begin].strip()
        if own:
            sub = re.match(r"-+ *(.+)", own)  # a subject of the task above
            names["parent"], names["task"] = (names["parent"], sub[1]) if sub else (own, "")
        for column in ("Version", "Filter"):
            if column in columns:
                names[column] = cells[columns[column]].strip() or ("" if own else names[column])
        record = _row(line, cells, columns, names)
        unread += record is None
        records += [] if record is None else [record]
    return records, unread


def _row(line: int, cells: list[str], columns: Mapping[str, int], names: Mapping[str, str]) -> Record | None:
    metric, value = cells[columns["Metric"]].strip(), number(cells[columns["Value"]].strip())
    if not names["parent"] or not re.fullmatch(r"[\w@.-]+", metric) or math.isnan(value):
        return None
    parent = (names["parent"], names["task"]) if names["task"] else _task(names["parent"])
    row: dict[str, Any] = dict(zip(("task", "subject"), parent, strict=False))
    kind = names["Filter"]
    row |= {"metric": metric if kind in ("", "none") else f"{metric},{kind}", "value": value}
    numbers = {
        "stderr": number(cells[columns["Stderr"]].strip()) if "Stderr" in columns else math.nan,
        "shots": number(cells[columns["n-shot"]].strip()) if "n-shot" in columns else math.nan,
        "version": number(names["Version"]),
    }
    return Record("evals", line, {**row, **{key: each for key, each in numbers.items() if not math.isnan(each)}})


FORMATS = (
    Format(
        name="lm-eval",
        kind="evaluation",
        title="lm-evaluation-harness results, JSON",
        example='{"results": {"boolq": {"alias": "boolq", "acc,none": 0.75, "acc_stderr,none": 0.0075}}, '
        '"versions": {"boolq": 2}, "n-shot": {"boolq": 0}, "total_evaluation_time_seconds": "62.5"}',
        sniff=('"results"', "_stderr"),
        document=_document,
    ),
    Format(
        name="lm-eval-table",
        kind="evaluation",
        title="lm-evaluation-harness, the table it prints",
        example="|Tasks|Version|Filter|n-shot|Metric|   |Value |   |Stderr|\n"
        "|-----|------:|------|-----:|------|---|-----:|---|-----:|\n"
        "|boolq|      2|none  |     0|acc   |↑  |0.7500|±  |0.0075|",
        parts=(
            Each(", num_fewshot: ", _head, weak=True),
            Block("|Version|", _table, size=1 << 18),
            Block("| Version |", _table, size=1 << 18),
        ),
        untried="written from its logs quoted in public repositories",
    ),
)
