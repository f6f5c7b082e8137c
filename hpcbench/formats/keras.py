"""Keras: what `fit` and `evaluate` print with verbose=1 (progress bars) and verbose=2 (a line an epoch)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpcbench.formats import PREFIX, Each, Format, Line, in_si
from hpcbench.rows import Tables, from_records

# What stands before the metrics: ``12s``, ``14/14 - 3s - 200ms/step``, ``14/14 [====] - 3s 200ms/step``, and so on.
_HEAD = re.compile(
    rb"^" + PREFIX.encode() + rb"(?: - )?(?:(?P<done>\d{1,12})/(?P<all>\d{1,12}) (?P<bar>\[[=>.]{1,60}\] |"
    rb"\xe2[\x80-\xff ]{2,400} )?(?:- )?)?(?P<time>\d{1,9})s(?: (?:- )?(?P<pace>\d{1,9}(?:s|ms|us)/\w+))?(?= - )"
)
_METRIC = re.compile(r"([A-Za-z][\w @./:-]{0,80}): (-?\d+\.\d{4}(?:e[-+]\d\d)?|nan|-?inf)")
_PACES = re.compile(r"(\d+)(s|ms|us)/(step|epoch|sample)")
_BEGINS = re.compile(rb"^" + PREFIX.encode() + rb"(?: - )?\d{1,12}(?:/\d{1,12} |s - )")
_NAMES = {"acc": "accuracy", "mse": "mean_squared_error", "mae": "mean_absolute_error"}


def _read(line: bytes) -> Sequence[tuple[str, dict[str, Any]]] | None:
    """Read the line at the end of an epoch or an evaluation; those that only show progress give nothing.

    Whether it belongs to an epoch is told by the lines around it, in `_place`.
    """
    if len(line) > 4000 or not _BEGINS.match(line):
        return []
    match = _HEAD.match(line)
    if match is None:
        return [] if b"ETA: " in line else None
    if match["done"] != match["all"]:
        return []
    row: dict[str, Any] = {"duration": float(match["time"])}
    paces = [match["pace"].decode()] if match["pace"] else []
    metrics = {}
    for part in line[match.end() + 3 :].decode().rstrip().split(" - "):
        if _PACES.fullmatch(part):
            paces.append(part)
        elif metric := _METRIC.fullmatch(part):
            metrics[_NAMES.get(metric[1], metric[1])] = float(metric[2])
        else:
            return None
    for pace in paces:
        number, unit, what = _PACES.fullmatch(pace).groups()  # type: ignore[union-attr]
        if what == "step" and int(number):
            row["step_time"] = in_si(number, unit)
    row |= {"loss": metrics.pop("loss"), "lr": metrics.pop("lr", metrics.pop("learning_rate", None))}
    row["validation_loss"] = metrics.pop("val_loss", None)
    row |= {"_of": float(match["all"] or 0), "_bar": bool(match["bar"]), "_metrics": json.dumps(metrics)}
    return [("epochs", row)]


def _place(tables: Tables) -> None:
    """Give each line its epoch, which stands above it. A bar is drawn several times: its last line counts.

    What comes after the line of an epoch, or before any epoch, is an evaluation.
    """
    rows = tables.pop("epochs", None)
    if rows is None or "_of" not in rows:
        return
    kept: list[_Summary] = []
    ranks: dict[float, _Rank] = {}
    for number, (line, row) in zip(rows["epoch"].tolist(), rows.records(), strict=True):
        rank = ranks.setdefault(row.get("rank", -1.0), _Rank())
        if "_of" not in row:
            rank.attempt += not number > rank.epoch
            rank.epoch, rank.begun = number, True
            continue
        new = _Summary(line, rank.epoch if rank.begun else math.nan, rank.attempt, row, json.loads(row["_metrics"]))
        if not rank.begun and rank.last is not None and new.redraws(rank.last):
            new.epoch = rank.last.epoch
            rank.last.replaced = True
        kept.append(new)
        rank.begun, rank.last = False, new
    several = any(rank.attempt > 1 for rank in ranks.values())
    found: list[tuple[str, int, dict[str, Any]]] = []
    for each in (each for each in kept if not each.replaced):
        place = {"epoch": each.epoch, **({"attempt": each.attempt} if several else {})}
        place |= {"rank": each.row["rank"]} if "rank" in each.row else {}
        # only an epoch is validated, whether or not its number is known
        known = not math.isnan(each.epoch) or each.validated
        if known:
            columns = {key: value for key, value in each.row.items() if not key.startswith("_")}
            found.append(("epochs", each.line, {**columns, **place}))
        else:
            score = {"task": "evaluation", "metric": "loss", "value": each.row.get("loss", math.nan)}
            found.append(("evals", each.line, {**score, **place}))
        for name, value in each.metrics.items():
            plain = name.removeprefix("val_")
            task = "evaluation" if not known else "training" if plain == name else "validation"
            score = {"task": task, "metric": _NAMES.get(plain, plain), "value": value}
            found.append(("evals", each.line, {**score, **place}))
    tables.update(from_records(found))


@dataclass
class _Rank:
    """Where the lines of one rank are."""

    epoch: float = math.nan
    attempt: int = 0
    begun: bool = False  # an epoch of which no line was seen yet
    last: _Summary | None = None


@dataclass
class _Summary:
    """The line of an epoch (known, or NaN) or of an evaluation."""

    line: int
    epoch: float
    attempt: int
    row: dict[str, Any]
    metrics: dict[str, float]
    replaced: bool = False

    def redraws(self, other: _Summary) -> bool:
        """Tell whether this is the bar of another line again, which may show more by now."""
        same = self.row["_bar"] and other.row["_bar"] and self.row["_of"] == other.row["_of"]
        return bool(same and self.validated >= other.validated and self.metrics.keys() >= other.metrics.keys())

    @property
    def validated(self) -> bool:
        """Whether it holds scores of a validation."""
        return "validation_loss" in self.row or any(name.startswith("val_") for name in self.metrics)


FORMATS = (
    Format(
        name="keras",
        kind="training",
        title="Keras, verbose=1 and verbose=2",
        example="14/14 - 3s - 213ms/step - accuracy: 0.8125 - loss: 0.5432 - val_accuracy: 0.7969 - val_loss: 0.6012",
        parts=(
            Each(" - loss: ", _read),
            Line("epochs", r"^Epoch <epoch:int>/\d+$", weak=True, loose=True, anchor="Epoch "),
            Line(
                "events",
                r"^Epoch \d+: early stopping$",
                constants={"kind": "early_stopping"},
                weak=True,
                loose=True,
                anchor=": early stopping",
            ),
        ),
        finish=_place,
    ),
)
