"""One JSON file a rank and epoch (``rank0_results_epoch3.json``), as data-parallel course programs write them."""

from __future__ import annotations

import json
import re
from typing import Any

from hpcbench.formats import Format, Reading, Record

_NAME = re.compile(r"(?:.*[/\\])?rank(\d{1,6})_results_epoch(\d{1,9})\.json", re.ASCII | re.DOTALL)
# their keys → columns
_KEYS = {
    "training_time": "duration",
    "tokens_per_sec": "tokens_per_second",
    "validation_loss": "validation_loss",
    "bleu": "bleu",
}


def _read(data: bytes, name: str) -> Reading:
    """Read one file. Rank and epoch stand in its name alone: without it they are not known."""
    found: Any = json.loads(data)
    if not isinstance(found, dict) or not {"training_time", "tokens_per_sec"} <= found.keys():
        return [], 0
    row = {column: float(found[key]) for key, column in _KEYS.items() if _is_number(found.get(key))}
    if not {"duration", "tokens_per_second"} & row.keys():
        return [], 1
    if match := _NAME.fullmatch(name):
        row |= {"rank": float(match[1]), "epoch": float(match[2])}
    at = min(max(data.find(f'"{key}"'.encode()), 0) for key in _KEYS if key in found)
    return [Record("epochs", 1 + data.count(b"\n", 0, at), row)], 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


FORMATS = (
    Format(
        name="rank-results",
        kind="training",
        title="results of one rank and epoch, JSON",
        example='{"validation_loss": 5.93, "bleu": 1.3, "training_time": 27.08, "tokens_per_sec": 82900.5}',
        sniff=('"training_time"', '"tokens_per_sec"'),
        document=_read,
        several=True,  # one a rank and epoch
    ),
)
