"""llm.c (karpathy/llm.c): what `train_gpt2` prints on a CPU and on GPUs, and its main.log."""

from __future__ import annotations

import math

from hpcbench.formats import NUMBER, Format, Line, Record

# A number that ends its line has all the decimals that the program prints: of a killed run's last line, cut inside
# the number, nothing is believed.
_SIX, _FOUR, _TWO = (rf"[-+]?(?:\d+\.\d{{{count}}}|nan|inf)" for count in (6, 4, 2))
_VALIDATION = {"task": "validation", "metric": "loss"}


def _divergence(records: list[Record]) -> list[Record]:
    """Add the event that a loss stopped being a number, at the first step where it did."""
    for record in records:
        if record.table == "steps" and math.isnan(record.values.get("loss", 0)):
            message = f"the loss of step {record.values['step']:.0f} is not a number"
            return [*records, Record("events", record.line, {"kind": "nan_loss", "message": message})]
    return records


def _cpu_steps(records: list[Record]) -> list[Record]:
    """Give each validation loss its step: the program validates before the step of that number.

    The next step that the log shows, or one past the last.
    """
    step, following = 0.0, None
    for record in reversed(records):
        if record.table == "steps":
            following = record.values["step"]
        elif "step" not in record.values:
            record.values["step"] = following
    for record in records:
        if record.table == "steps":
            step = record.values["step"] + 1
        elif record.values["step"] is None:
            record.values["step"] = step
    return _divergence(records)


def _cuda_steps(records: list[Record]) -> list[Record]:
    """Give each score its step: steps are printed counted from 1, so it is the number of steps done so far."""
    step = next((record.values["step"] - 1 for record in records if record.table == "steps"), 0.0)  # a run may resume
    for record in records:
        if record.table == "steps":
            step = record.values["step"]
        elif record.table == "evals":
            record.values["step"] = step
    return _divergence(records)


FORMATS = (
    Format(
        name="llmc-cpu",
        title="llm.c train_gpt2 on a CPU",
        example="step 0: train loss 5.356189 (took 1452.121000 ms)",
        sniff=r"^step \d+: train loss \S+ \(took ",
        claims=r"^(?:step \d+: train|val loss )",
        warmup=1,
        lines=(
            Line(
                "steps",
                rf"step (?P<step>\d+): train loss (?P<loss>{NUMBER}) \(took (?P<step_time>{NUMBER}) ms\)",
                units={"step_time": "ms"},
            ),
            Line("evals", rf"val loss (?P<value>{_SIX})", constants=_VALIDATION),
        ),
        finish=_cpu_steps,
    ),
    Format(
        name="llmc-cuda",
        title="llm.c train_gpt2cu on GPUs",
        example="step    1/3 | loss 11.032358 (+nanz)| norm 22.1414 (+nanz)| lr 8.57e-07 | 2517.44 ms "
        "| 39.9% bf16 MFU | 208262 tok/s",
        sniff=r"^step +\d+/\d+(?: \| loss |: train loss )",
        claims=r"^(?:step +\d+/\d+|val loss )",
        warmup=1,
        lines=(
            Line(
                "steps",
                rf"step +(?P<step>\d+)/\d+ \| loss +(?P<loss>{NUMBER}) \([^)|]*\)\| norm +(?P<grad_norm>{NUMBER})"
                rf" \([^)|]*\)\| lr (?P<lr>{NUMBER}) \| (?P<step_time>{NUMBER}) ms \| (?P<mfu>{NUMBER})% \S+ MFU"
                rf" \| (?P<tokens_per_second>{NUMBER}) tok/s",
                units={"step_time": "ms", "mfu": "%"},
                unknown={"mfu": -100.0},  # a GPU that is not in the program's table
            ),
            Line(  # the fp32 program
                "steps",
                rf"step +(?P<step>\d+)/\d+: train loss (?P<loss>{NUMBER}) \((?P<step_time>{NUMBER}) ms,"
                rf" (?P<tokens_per_second>{NUMBER}) tok/s\)",
                units={"step_time": "ms"},
            ),
            Line("evals", rf"val loss (?P<value>{_SIX})", constants=_VALIDATION),
            Line(  # follows a progress line that ends in a carriage return, not a line break
                "evals",
                rf"(?:.*\r|.*\d)?HellaSwag: (?P<correct>\d+)/(?P<count>\d+) = (?P<value>{_SIX})",
                constants={"task": "hellaswag", "metric": "accuracy"},
            ),
            Line(
                "counters",
                rf"total average iteration time: (?P<value>{NUMBER}) ms",
                units={"value": "ms"},
                constants={"name": "mean_step_time", "unit": "s"},
            ),
        ),
        finish=_cuda_steps,
    ),
    Format(
        name="llmc-main-log",
        title="llm.c main.log",
        example="s:0 trl:11.0116 lr:0.000001 norm:14.96",
        sniff=r"^s:\d+ (?:tel|trl):",
        claims=r"^s:\d+ ",
        lines=(
            Line(
                "steps",
                rf"s:(?P<step>\d+) trl:(?P<loss>{_FOUR})(?: lr:(?P<lr>{_SIX}))?(?: norm:(?P<grad_norm>{_TWO}))?",
            ),
            Line("evals", rf"s:(?P<step>\d+) tel:(?P<value>{_FOUR})", constants=_VALIDATION),
            Line(
                "evals",
                rf"s:(?P<step>\d+) eval:(?P<value>{_FOUR})",
                constants={"task": "hellaswag", "metric": "accuracy"},
            ),
        ),
        finish=_divergence,
    ),
)
