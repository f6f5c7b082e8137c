"""nanoGPT (karpathy/nanoGPT) and modded-nanogpt (KellerJordan/modded-nanogpt): what their train scripts print."""

from __future__ import annotations

import math
import re

import numpy as np

from hpcbench.formats import PARAMETERS, PRECISIONS, Each, Format, Line
from hpcbench.rows import Tables


def _mark_slow(tables: Tables) -> None:
    """Mark the iterations whose time is not that of a step: the first, and those that evaluate before they train.

    `evaluates` says which of the two it is.
    """
    steps, evals = tables.get("steps"), tables.get("evals")
    if steps is None:
        return
    step = steps.numbers("step")
    evaluates = np.zeros(len(steps), dtype=bool)
    if evals is not None:
        last = np.searchsorted(evals.line, steps.line) - 1  # the evaluation before each iteration
        evaluates = (last >= 0) & (evals.numbers("step")[last.clip(0)] == step)
    first = np.concatenate([[True], np.diff(step) < 0])[: len(step)]  # of this run, and of one that starts again
    steps["evaluates"] = evaluates.astype(float)
    steps["warmup"] = (evaluates | first).astype(float)


def _set(name: str, value: str, **constants: str) -> Line:
    """Read a setting of the command line, as nanoGPT repeats it."""
    return Line(PARAMETERS, rf"^Overriding: {name} = {value}$", constants, weak=True, loose=True)


_SETTING = re.compile(
    rb" {4}(batch_size|device_batch_size|sequence_length) : int = (\d{1,9}(?:\*\d{1,9}){0,3})(?: #| *$)"
)
_PARAMETER = {b"batch_size": "batch", b"device_batch_size": "micro_batch", b"sequence_length": "sequence_length"}


def _setting(line: bytes) -> list[tuple[str, dict[str, float]]]:
    """Read a setting from the program with which the log begins; it may be a product."""
    match = _SETTING.match(line, 0, 200)
    if match is None:
        return []
    return [(PARAMETERS, {_PARAMETER[match[1]]: float(math.prod(map(int, match[2].split(b"*"))))})]


_STEP = r"^step:<step:int>/\d{1,9} "
_CLOCK = r"train_time:<elapsed ms>ms step_avg:<mean_step_time ms>ms"

FORMATS = (
    Format(
        name="nanogpt",
        kind="training",
        title="nanoGPT train.py",
        example="iter 5: loss 4.2082, time 1431.27ms, mfu 12.01%",
        parts=(
            Line(PARAMETERS, r"^tokens per iteration will be: <total_batch:thousands>$", weak=True, loose=True),
            _set("batch_size", "<micro_batch:int>"),
            _set("block_size", "<sequence_length:int>"),
            _set("device", "<device:word>"),
            *(_set("dtype", name, precision=precision) for name, precision in PRECISIONS.items()),
            Line(
                "steps",
                r"^iter <step:int>: loss <loss:.4>, time <step_time ms>ms, mfu <mfu %>%",
                unknown={"mfu": -100.0},  # until the fifth iteration
            ),
            Line(
                "evals",
                r"^step <step:int>: train loss <value:.4>, val loss (?:\d{1,9}\.\d{4}|nan|inf)$",
                constants={"task": "train", "metric": "loss"},
                anchor=", val loss ",
            ),
            Line(
                "evals",
                r"^step <step:int>: train loss (?:\d{1,9}\.\d{4}|nan|inf), val loss <value:.4>$",
                constants={"task": "validation", "metric": "loss"},
                anchor=", val loss ",
                loose=True,  # one line, counted once
            ),
        ),
        finish=_mark_slow,
    ),
    Format(
        name="modded-nanogpt",
        kind="training",
        title="modded-nanogpt",
        example="step:120/1750 train_loss:4.4112 train_time:17602ms step_avg:160.02ms",
        parts=(
            Each("    batch_size : int = ", _setting, weak=True),
            Each("    device_batch_size : int = ", _setting, weak=True),
            Each("    sequence_length : int = ", _setting, weak=True),
            # the log begins with the program, whose print statements look like lines that are damaged
            Line("steps", rf"{_STEP}(?:train_loss:<loss:.4> )?{_CLOCK}", anchor="ms step_avg:", loose=True),
            Line(
                "evals",
                rf"{_STEP}val_loss:<value:.4> (?:val_bpb:[\d.]{{1,12}} )?{_CLOCK}",
                constants={"task": "validation", "metric": "loss"},
                anchor=" val_loss:",
                loose=True,
            ),
        ),
        warmup=10,  # it leaves them out of its own clock as well
    ),
)
