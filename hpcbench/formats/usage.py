"""What servers say of a request in its `usage`, SambaNova's (the cloud, ALCF's Metis) and others; JSON in any text."""

from __future__ import annotations

import math
import re
from typing import Any

from hpcbench.formats import Block, Format, Reading, Record
from hpcbench.formats.measurements import Text, counters, number

_BEGIN = re.compile(r"""["']?\busage["']?[ \t]*[:=][ \t\n]*(?:\w+\(|\{)""")
_END = re.compile(r"[\s,]*[})]")
_PAIR = re.compile(
    r"""[\s,]*["']?(\w{1,80})["']?\s*[:=]\s*(?:(-?\d[\d.eE+-]{0,40})(?=[\s,})])|'[^'\n]*'|"[^"\n]*"|(\w{0,40}[{(\[])|\w{1,20})"""
)
_BRACKET = re.compile(r"[{}()\[\]]")
_MODEL = re.compile(r"""["']?\bmodel["']?[ \t]*[:=][ \t]*["']([^"'\n]{1,200})["']""")
_COLUMNS = {  # all measured by the server, which is not what a client sees
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "time_to_first_token": "server_ttft",
    "total_latency": "server_latency",
    "completion_tokens_per_sec": "server_output_tokens_per_second",  # of the whole latency
    "completion_tokens_after_first_per_sec": "server_decode_tokens_per_second",
    "total_tokens_per_sec": "server_total_tokens_per_second",
    "start_time": "server_started",
    "end_time": "server_finished",
}
_TELLING = {"time_to_first_token", "total_latency", "completion_tokens_per_sec"}


def _usage(data: bytes, mark: str) -> Reading:
    """Read each usage of a text that begins with `mark`: as JSON, a dictionary of Python or an object of a client."""
    text = Text(data)
    records, unread, before = [], 0, 0
    for begin in _BEGIN.finditer(text.text):
        if not begin[0].startswith(mark):  # another block has it
            continue
        found = _pairs(text.text, begin.end())
        if found is None:
            unread += "total_latency" in text.text[begin.end() : begin.end() + 2000]
        elif found.keys() & _TELLING:
            row: dict[str, Any] = {column: found[name] for name, column in _COLUMNS.items() if name in found}
            models = _MODEL.findall(text.text, max(before, text.text.rfind("\n", 0, begin.start())), begin.start())
            if models:
                row["model"] = models[-1]
            records.append(Record("requests", text.line(begin.start()), row))
        before = begin.end()
    return records, unread


def _pairs(text: str, at: int) -> dict[str, float] | None:
    """Read names and numbers up to the bracket that ends them; None where it is missing."""
    found: dict[str, float] = {}
    for _ in range(100):
        if _END.match(text, at):
            return found
        pair = _PAIR.match(text, at)
        if pair is None:
            return None
        at = pair.end()
        if pair[2]:
            found[pair[1]] = float(pair[2])
        elif pair[3]:  # brackets in brackets: details that are not read
            depth = 1
            for bracket in _BRACKET.finditer(text, at, at + 4000):
                depth += 1 if bracket[0] in "{([" else -1
                if not depth:
                    at = bracket.end()
                    break
            if depth:
                return None
    return None


# --- the response of any server that speaks OpenAI's protocol: tokens, and no time ---

_RESPONSES = ("chat.completion", "text_completion")


def _responses(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records = []
    for value, at in text.objects("object", "choices", "usage"):
        usage = value["usage"]
        if value["object"] not in _RESPONSES or not isinstance(usage, dict) or usage.keys() & _TELLING:
            continue
        known = {key: number(each) for key, each in usage.items()}
        model = value["model"] if isinstance(value.get("model"), str) else ""
        records += _response(text.line(text.after("usage", at)), known, model)
    return records, 0


def _printed(data: bytes) -> Reading:
    """Read responses as OpenAI's client prints them."""
    text = Text(data)
    records, before = [], 0
    for begin in re.finditer(r"\busage=CompletionUsage\(", text.text):
        head = text.text[before : begin.start()].rpartition("\n")[2]
        found, before = _pairs(text.text, begin.end()), begin.end()
        if found and not found.keys() & _TELLING and any(f"object='{each}'" in head for each in _RESPONSES):
            records += _response(text.line(begin.start()), found, (_MODEL.findall(head) or [""])[-1])
    return records, 0


def _response(line: int, usage: dict[str, float], model: str) -> list[Record]:
    row: dict[str, Any] = {
        _COLUMNS[name]: usage[name]
        for name in ("prompt_tokens", "completion_tokens")
        if not math.isnan(usage.get(name, math.nan))
    }
    return [Record("requests", line, {**row, "model": model} if model else row)] if "output_tokens" in row else []


# --- what ALCF's service says of a batch ---

_BATCH = {
    "response_time": "duration",
    "throughput_tokens_per_second": "total_tokens_per_second",
    "total_tokens": "total_tokens",
    "num_responses": "completed",
    "lines_processed": "requests",
}


def _batch(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for value, at in text.objects("num_responses"):
        records += _totals(text, at, value)
    for value, at in text.objects("metrics"):
        inner = value["metrics"]
        if isinstance(inner, dict) and "num_responses" in inner:
            records += _totals(text, text.after("metrics", at), inner)
    return records, 0


def _totals(text: Text, at: int, value: dict[str, Any]) -> list[Record]:
    known = {key: name for key, name in _BATCH.items() if key in value}
    return counters((text.line(text.after(key, at)), name, number(value[key])) for key, name in known.items())


# --- what a student's script prints that asks several endpoints the same ---

_ENDPOINT = re.compile(r"--- Testing (?P<endpoint>.{1,80}?) \(Model: (?P<model>[^\s()]{1,200})\) ---")
_ANSWER = re.compile(r"\[Req \d+\] Success \((\d+) tokens\)")
_TOTALS = (
    ("duration", re.compile(r"> Duration: (\d+\.\d\d)s$")),
    ("output_tokens_per_second", re.compile(r"> Throughput: (\d+\.\d\d) tokens/sec$")),
)


def _endpoint(data: bytes) -> Reading:
    lines = data.decode(errors="replace").split("\n")
    head = _ENDPOINT.search(lines[0])
    if head is None:
        return [], 0
    records: list[Record] = []
    for line, text in enumerate(lines[1:400], 2):
        plain = text.strip()
        if answer := _ANSWER.fullmatch(plain):
            row = {"output_tokens": float(answer[1]), "status": "completed", **head.groupdict()}
            records.append(Record("requests", line, row))
        for name, pattern in _TOTALS:
            if total := pattern.fullmatch(plain):
                records += counters([(line, name, float(total[1]))], **head.groupdict())
        if plain and plain[0] not in "[>":
            break
    return records, 0


FORMATS = (
    Format(
        name="sambanova-usage",
        kind="inference",
        title="responses of SambaNova's servers (usage)",
        example='{"model":"m-1","usage":{"completion_tokens":40,"completion_tokens_per_sec":160.5,"prompt_tokens":12,'
        '"time_to_first_token":0.0625,"total_latency":0.25,"total_tokens":52}}',
        parts=(
            Block('"usage"', lambda data: _usage(data, '"usage"'), size=1 << 16),
            Block("'usage'", lambda data: _usage(data, "'usage'"), size=1 << 16),
            Block("usage=CompletionUsage(", lambda data: _usage(data, "usage=CompletionUsage("), size=1 << 16),
        ),
    ),
    Format(
        name="openai-response",
        kind="inference",
        title="responses of servers that speak OpenAI's protocol (Sophia)",
        example='{"id": "r-1", "object": "chat.completion", "model": "m-1", "choices": [], '
        '"usage": {"prompt_tokens": 12, "total_tokens": 52, "completion_tokens": 40}}',
        sniff=('"usage"', '"choices"', '"completion_tokens"'),
        document=_responses,
        parts=(Block("usage=CompletionUsage(", _printed, size=1 << 16),),
        untried="written from responses of vLLM and OpenAI quoted in public repositories",
    ),
    Format(
        name="alcf-batch",
        kind="inference",
        title="result of a batch of ALCF's inference service",
        example='{"metrics": {"response_time": 20.5, "throughput_tokens_per_second": 400.0, "total_tokens": 8200, '
        '"num_responses": 10, "lines_processed": 10}}',
        sniff=('"response_time"', '"throughput_tokens_per_second"', '"num_responses"'),
        document=_batch,
    ),
    Format(
        name="endpoint-test",
        kind="inference",
        title="a script that asks several endpoints (Metis, Sophia) in turn",
        example="--- Testing Metis (SambaNova) (Model: m-1) ---\n  [Req 1] Success (31 tokens)\n  > Duration: 2.50s",
        parts=(Block("--- Testing ", _endpoint, size=1 << 15),),
    ),
)
