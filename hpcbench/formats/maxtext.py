"""MaxText (AI-Hypercomputer/maxtext): the lines of completed steps and of evaluations."""

from __future__ import annotations

from hpcbench.formats import Format, Line

FORMATS = (
    Format(
        name="maxtext",
        kind="training",
        title="MaxText",
        example="completed step: 7, seconds: 2.345, TFLOP/s/device: 210.987, Tokens/s/device: 6543.210, "
        "total_weights: 65536, loss: 9.876",
        warmup=2,  # the first step compiles; the second is only handed to the device, and takes no time
        parts=(
            Line(
                "steps",
                r"completed step: <step:int>, seconds: <step_time>, TFLOP/s/device: <flops_per_second_per_device T>"
                r"(?:, Tokens/s/device: <tokens_per_second_per_device>)?(?:, total_weights: <total_weights>)?"
                r", loss: <loss:.3>",
                anchor="completed step: ",
            ),
            Line(
                "evals",
                r"eval metrics after step: <step:int>, loss=<value:.3>",
                constants={"task": "validation", "metric": "loss"},
            ),
        ),
    ),
)
