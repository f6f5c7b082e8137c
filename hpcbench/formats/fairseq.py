"""fairseq: the lines of `fairseq-train` as text and as JSON: within an epoch, at its end, and of validations."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from hpcbench.formats import PARAMETERS, Each, Format, Line, stamp

# Fields differ by task and criterion: each is looked for from the line's beginning, over whole fields only.
_COMMAS = r"[\w.@/-]{1,60}=[^,= ]{1,40}, "
_BARS = r"[\w.@/-]{1,60} [^| ]{1,40} \| "
_STEP = {  # column: what fairseq calls it
    "step": "num_updates",
    "loss": "loss",
    "perplexity": "ppl",
    "tokens_per_second": "wps",  # words are what the model reads: tokens
    "steps_per_second": "ups",
    "tokens_per_step": "wpb",
    "global_batch_size": "bsz",
    "lr": "lr",
    "grad_norm": "gnorm",
    "loss_scale": "loss_scale",
}
_EPOCH = {
    "step": "num_updates",
    "loss": "loss",
    "perplexity": "ppl",
    "tokens_per_second": "wps",
    "steps_per_second": "ups",
    "lr": "lr",
    "grad_norm": "gnorm",
    "duration": "train_wall",
}
_SCORES = {"loss": "loss", "nll_loss": "nll_loss", "perplexity": "ppl", "bleu": "bleu", "accuracy": "accuracy"}


def _within(prefix: str, **more: Any) -> Line:
    fields = "".join(
        rf"(?=(?:{_COMMAS}){{0,60}}?{text}=<{column}>,)"
        if text == "num_updates"
        else rf"(?=(?:(?:{_COMMAS}){{0,60}}?{text}=<{column}>,)?)"
        for column, text in _STEP.items()
    )
    return Line("steps", rf"{prefix}\| epoch <epoch:int>: +\d+ / \d+ {fields}", **more)


def _end_of_epoch() -> Line:
    fields = "".join(
        rf"(?=(?:(?:{_BARS}){{0,60}}?(?:train_)?{text} <{column}> \|)?)" for column, text in _EPOCH.items()
    )
    return Line("epochs", rf"\| train \| epoch <epoch:int> \| (?=(?:train_)?loss ){fields}", anchor="| train | epoch ")


def _score(metric: str, text: str) -> Line:
    return Line(
        "evals",
        r"\| epoch <epoch:int> \| valid on '(?P<subject>[^'|]{1,80})' subset \| "
        rf"(?:{_BARS}){{0,60}}?(?:valid_)?{text} <value> \|(?=(?:.{{0,2000}}?\| (?:valid_)?num_updates <step:int>)?)",
        constants={"task": "validation", "metric": metric},
        anchor="' subset | ",
        loose=metric != "loss",
    )


def _number(value: Any) -> float:
    """Read a value of the JSON, in which most numbers are texts; raises `ValueError` or `TypeError`."""
    if isinstance(value, bool):
        raise TypeError(value)
    return float(value)


def _read(line: bytes) -> Sequence[tuple[str, dict[str, Any]]] | None:
    """Read ``<time> | INFO | train_inner | {...}``."""
    head, _, text = line.partition(b" | {")
    row = json.loads(b"{" + text)
    tag = head.rpartition(b" ")[2].decode(errors="replace")
    prefix = "" if tag == "train_inner" else f"{tag}_"
    values = {str(key).removeprefix(prefix): value for key, value in row.items()}
    place = {"epoch": _number(values["epoch"])}
    try:
        time = {"time": stamp(head[:19].decode())}
    except ValueError:
        time = {}

    def numbers(names: dict[str, str]) -> dict[str, float]:
        found = {column: _number(values[text]) for column, text in names.items() if values.get(text) is not None}
        return {column: value for column, value in found.items() if column == "loss" or not math.isnan(value)}

    if tag == "train_inner":
        return [("steps", {**place, **time, **numbers(_STEP)})] if "num_updates" in values else None
    if tag == "train":
        return [("epochs", {**place, **time, **numbers(_EPOCH)})]
    step = numbers({"step": "num_updates"})
    scores = numbers(_SCORES)
    subject = {"task": "validation", "subject": tag}
    return [("evals", {**place, **time, **step, **subject, "metric": key, "value": scores[key]}) for key in scores]


FORMATS = (
    Format(
        name="fairseq",
        kind="training",
        title="fairseq-train",
        example="2023-04-05 06:07:08 | INFO | train_inner | epoch 001:    100 / 4000 loss=9.876, nll_loss=9.123, "
        "ppl=557.7, wps=45678, ups=1.25, wpb=36542, bsz=1024, num_updates=100, lr=1.25e-05, gnorm=2.345, "
        "loss_scale=64, train_wall=80, wall=95",
        parts=(
            Line(
                PARAMETERS,
                r"\| training on <processes:int> (?:devices|GPUs)\b",
                weak=True,
                loose=True,
                anchor="| training on ",
            ),
            *(
                Line(
                    PARAMETERS,
                    rf"\| max tokens per (?:GPU|device) = {tokens} and "
                    rf"(?:batch size|max sentences) per (?:GPU|device) = {sentences}$",
                    weak=True,
                    loose=True,  # one of the two is None
                    anchor="| max tokens per ",
                )
                for tokens, sentences in (("<max_tokens:int>", "[^ ]{1,20}"), ("[^ ]{1,20}", "<micro_batch:int>"))
            ),
            Line(  # of a language model; the configuration is one long line
                PARAMETERS, r"'tokens_per_sample': <sequence_length:int>,", weak=True, loose=True
            ),
            _within(r"\| train_inner ", anchor="| train_inner | epoch "),
            _within("^", anchor=", num_updates=", loose=True),  # versions before 0.9; a progress bar has the same words
            _end_of_epoch(),
            *(_score(metric, text) for metric, text in _SCORES.items()),
            *(Each(f"| INFO | {tag} | {{", _read) for tag in ("train_inner", "train", "valid", "test")),
        ),
    ),
)
