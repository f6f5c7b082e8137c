"""ollama: the last response of its API, in any text, and what `ollama run --verbose` prints."""

from __future__ import annotations

import math
import re
from typing import Any

from hpcbench.formats import Block, Format, Reading, Record, in_si, stamp
from hpcbench.formats.measurements import Text, number, parameters

_COLUMNS = {  # all measured by the server; the total includes loading the model
    "prompt_eval_count": "input_tokens",
    "eval_count": "output_tokens",
    "total_duration": "server_latency",
    "load_duration": "server_load_time",
    "prompt_eval_duration": "server_prefill_time",
    "eval_duration": "server_decode_time",
}
# as Go writes it: up to nine digits, without the zeros that end them
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records = []
    for value, at in text.objects("total_duration", "eval_count"):
        row: dict[str, Any] = {
            column: number(value.get(key), "ns" if key.endswith("duration") else "") for key, column in _COLUMNS.items()
        }
        row = {name: each for name, each in row.items() if not math.isnan(each)}
        if row.get("server_decode_time"):
            row["server_decode_tokens_per_second"] = row["output_tokens"] / row["server_decode_time"]
        if isinstance(value.get("model"), str):
            row["model"] = value["model"]
        row |= _times(value.get("created_at"), row.get("server_latency", math.nan))
        records.append(Record("requests", text.line(at), row))
        records += parameters(text.line(at), {"model": value.get("model")})
    return records, 0 if records else 1


def _times(created: object, latency: float) -> dict[str, float]:
    """Tell when a request began and ended: the server stamps its last chunk, then takes the total up to there."""
    match = _STAMP.fullmatch(created) if isinstance(created, str) else None
    if match is None:
        return {}
    try:
        ended = stamp(match[1] + match[3]) + float(match[2] or 0)
    except (ValueError, OverflowError):  # the 31st of February
        return {}
    began = {} if math.isnan(latency) else {"server_started": ended - latency}
    return {**began, "server_finished": ended}


_LINES = {
    "total duration": "server_latency",
    "load duration": "server_load_time",
    "prompt eval count": "input_tokens",
    "prompt eval duration": "server_prefill_time",
    "prompt eval rate": "server_prefill_tokens_per_second",
    "eval count": "output_tokens",
    "eval duration": "server_decode_time",
    "eval rate": "server_decode_tokens_per_second",
}
_LINE = re.compile(
    r"(?P<name>[a-z ]{9,20}): +"
    r"(?:(?P<count>\d+) token\(s\)|(?P<rate>\d+\.\d\d) tokens/s|(?P<time>(?:\d+h)?(?:\d+m)?\d[\d.]*(?:ms|s|µs|us|ns)))"
)
_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|µs|us|ns)")  # of a duration as Go writes it
_UNITS = {"m": "min", "µs": "us", "s": ""}


def _verbose(data: bytes) -> Reading:
    """Read the block; one of its lines alone is none."""
    row: dict[str, float] = {}
    for text in data.decode(errors="replace").split("\n")[:12]:
        match = _LINE.fullmatch(text.strip())
        if match is None or match["name"] not in _LINES or _LINES[match["name"]] in row:
            break
        if match["time"]:
            parts = _PART.findall(match["time"])
            value = sum(in_si(each, _UNITS.get(unit, unit)) for each, unit in parts)
        else:
            value = float(match["count"] or match["rate"])
        row[_LINES[match["name"]]] = value
    if "server_latency" not in row or "server_decode_time" not in row:
        return [], 1 if len(row) > 1 else 0
    return [Record("requests", 1, row)], 0


FORMATS = (
    Format(
        name="ollama",
        kind="inference",
        title="ollama, responses of its API",
        example='{"model": "m-1", "done": true, "total_duration": 500000000, "load_duration": 20000000, '
        '"prompt_eval_count": 12, "prompt_eval_duration": 30000000, "eval_count": 20, "eval_duration": 400000000}',
        sniff=('"total_duration"', '"eval_count"'),
        document=_document,
    ),
    Format(
        name="ollama-verbose",
        kind="inference",
        title="ollama run --verbose",
        example="total duration:       2.5s\nload duration:        20.5ms\neval count:           100 token(s)\n"
        "eval duration:        2s\neval rate:            50.00 tokens/s",
        parts=(Block("total duration: ", _verbose, size=2000),),
    ),
)
