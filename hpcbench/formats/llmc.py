"""llm.c (karpathy/llm.c): what `train_gpt2` prints on a CPU and on GPUs, and its main.log."""

from __future__ import annotations

import numpy as np

from hpcbench.formats import PARAMETERS, Format, Line
from hpcbench.rows import Tables

# A number that ends its line has all the decimals that the program prints: of a killed run's last line, cut inside
# the number, nothing is believed.
_VALIDATION = {"task": "validation", "metric": "loss"}


def _cpu_steps(tables: Tables) -> None:
    """Give each validation loss its step: the program validates before the step of that number.

    The next step that the log shows, or one past the last.
    """
    evals, steps = tables.get("evals"), tables.get("steps")
    if evals is not None and steps is not None:
        after = np.searchsorted(steps.line, evals.line)
        evals["step"] = np.append(steps["step"], steps["step"][-1] + 1)[after]


def _cuda_steps(tables: Tables) -> None:
    """Give each score its step: steps are printed counted from 1, so it is the number of steps done so far."""
    evals, steps = tables.get("evals"), tables.get("steps")
    if evals is not None and steps is not None:
        before = np.searchsorted(steps.line, evals.line)
        evals["step"] = np.insert(steps["step"], 0, steps["step"][0] - 1)[before]  # a run may resume


def _said(words: str, parameter: str, *, weak: bool = True) -> Line:
    """Read a row of the table that the CUDA program prints first."""
    return Line(PARAMETERS, rf"^\| {words} +\| {parameter} +\|", weak=weak)


FORMATS = (
    Format(
        name="llmc-cpu",
        kind="training",
        title="llm.c train_gpt2 on a CPU",
        example="step 0: train loss 5.356189 (took 1452.121000 ms)",
        warmup=1,
        parts=(
            Line("steps", r"^step <step>: train loss <loss> \(took <step_time ms> ms\)"),
            Line("evals", r"^val loss <value:.6>$", constants=_VALIDATION, weak=True),
        ),
        finish=_cpu_steps,
    ),
    Format(
        name="llmc-cuda",
        kind="training",
        title="llm.c train_gpt2cu on GPUs",
        example="step    1/3 | loss 11.032358 (+nanz)| norm 22.1414 (+nanz)| lr 8.57e-07 | 2517.44 ms "
        "| 39.9% bf16 MFU | 208262 tok/s",
        warmup=1,
        parts=(
            Line(
                "steps",
                r"^step +<step>/\d+ \| loss +<loss> \([^)|]*\)\| norm +<grad_norm> \([^)|]*\)\| lr <lr>"
                r" \| <step_time ms> ms \| <mfu %>% [^ ]+ MFU \| <tokens_per_second> tok/s",
                unknown={"mfu": -100.0},  # a GPU that is not in the program's table
                anchor=")| norm ",
            ),
            Line(  # the fp32 program
                "steps",
                r"^step +<step>/\d+: train loss <loss> \(<step_time ms> ms, <tokens_per_second> tok/s\)",
            ),
            Line("evals", r"^val loss <value:.6>$", constants=_VALIDATION, weak=True),
            Line(
                "evals",
                r"HellaSwag: <correct:int>/<count:int> = <value:.6>",
                constants={"task": "hellaswag", "metric": "accuracy"},
                weak=True,
                loose=True,  # its progress has the same words
            ),
            Line(
                "counters",
                r"^total average iteration time: <value ms> ms",
                constants={"name": "mean_step_time", "unit": "s"},
            ),
            _said("micro batch size B", "<micro_batch:int>", weak=False),  # all that a run without memory leaves
            _said("sequence length T", "<sequence_length:int>"),
            _said("total batch size", "<total_batch:int>"),
            _said("num_processes", "<processes:int>"),
            _said("precision", "<precision:word>"),
            _said("device", "(?P<device>[^|]{1,80}[^ |])"),
            _said("weight init method", "(?P<model>[^|]{1,80}[^ |])"),
        ),
        finish=_cuda_steps,
    ),
    Format(
        name="llmc-main-log",
        kind="training",
        title="llm.c main.log",
        example="s:0 trl:11.0116 lr:0.000001 norm:14.96",
        parts=(
            Line(
                "steps",
                r"^s:<step> trl:<loss:.4>(?: lr:<lr:.6>)?(?: norm:<grad_norm:.2>)?$",
            ),
            Line("evals", r"^s:<step> tel:<value:.4>$", constants=_VALIDATION),
            Line(
                "evals",
                r"^s:<step> eval:<value:.4>$",
                constants={"task": "hellaswag", "metric": "accuracy"},
            ),
        ),
    ),
)
