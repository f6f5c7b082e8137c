"""text-generation-benchmark of Hugging Face's TGI: the tables it prints in Markdown."""

from __future__ import annotations

import re

from hpcbench.formats import PARAMETERS, Block, Format, Line, Reading, Record, in_si
from hpcbench.formats.measurements import counters, statistic

_STATISTICS = {"Average": "mean", "Lowest": "min", "Highest": "max"}
_STEPS = {
    # a step for the whole batch; a token of it
    "Prefill": ("prefill_time", "prefill_tokens_per_second"),
    "Decode (token)": ("decode_step_time", "decode_tokens_per_second"),
    "Decode (total)": ("decode_time", "decode_tokens_per_second"),
    "Decode": ("decode_time", "decode_tokens_per_second"),
}
_CELL = re.compile(r"(\d+\.\d+) (ms|s|us|µs|ns|tokens/secs?)")
_RULE = re.compile(r"[|\s:-]+")


def _table(data: bytes) -> Reading:
    """Read a table; an empty first cell means the one above it, any other empty cell a number that is not known."""
    lines = data.decode(errors="replace").split("\n")
    head = [cell.strip() for cell in lines[0].split("|")]
    if head[1:4] != ["Step", "Batch Size", "Average"]:
        return [], 0
    names = [_STATISTICS.get(cell, statistic(cell)) for cell in head]
    records: list[Record] = []
    unread, step = 0, ""
    for line, text in enumerate(lines[1:], 2):
        if not text.startswith("|"):
            break
        if _RULE.fullmatch(text):
            continue
        cells = [cell.strip() for cell in text.split("|")]
        step = cells[1] or step
        if len(cells) != len(head) or step not in _STEPS or not cells[2].isdecimal():
            unread += 1
            continue
        for name, cell in zip(names[3:], cells[3:], strict=True):
            match = _CELL.fullmatch(cell)
            if match is None or name is None:
                unread += bool(cell)
                continue
            rate = match[2].startswith("tokens")
            value = float(match[1]) if rate else in_si(match[1], {"s": "", "µs": "us"}.get(match[2], match[2]))
            records += counters([(line, f"{_STEPS[step][rate]}_{name}", value)], batch_size=float(cells[2]))
    return records, unread


FORMATS = (
    Format(
        name="tgi-benchmark",
        kind="inference",
        title="text-generation-benchmark, Markdown",
        example="| Step           | Batch Size | Average   | Lowest    | Highest   | p50       |\n"
        "|----------------|------------|-----------|-----------|-----------|-----------|\n"
        "| Prefill        | 1          | 40.25 ms  | 40.00 ms  | 41.00 ms  | 40.50 ms  |",
        parts=(
            # rows of the table that it prints first; of other programs' tables they may be as well
            Line(PARAMETERS, r"^\| Model +\| (?P<model>[^ |]{1,200}) *\|$", weak=True, loose=True),
            Line(PARAMETERS, r"^\| Sequence Length +\| <input_tokens:int> *\|$", weak=True, loose=True),
            Line(PARAMETERS, r"^\| Decode Length +\| <output_tokens:int> *\|$", weak=True, loose=True),
            Block("| Batch Size | Average", _table, size=1 << 16),
        ),
    ),
)
