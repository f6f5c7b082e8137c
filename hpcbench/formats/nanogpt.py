"""nanoGPT (karpathy/nanoGPT) and modded-nanogpt (KellerJordan/modded-nanogpt): what their train scripts print."""

from __future__ import annotations

import numpy as np

from hpcbench.formats import Format, Line
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


_STEP = r"^step:<step:int>/\d{1,9} "
_CLOCK = r"train_time:<elapsed ms>ms step_avg:<mean_step_time ms>ms"

FORMATS = (
    Format(
        name="nanogpt",
        kind="training",
        title="nanoGPT train.py",
        example="iter 5: loss 4.2082, time 1431.27ms, mfu 12.01%",
        parts=(
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
