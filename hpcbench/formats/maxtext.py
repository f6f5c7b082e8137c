"""MaxText (AI-Hypercomputer/maxtext): the lines of completed steps and of evaluations."""

from __future__ import annotations

from hpcbench.formats import PARAMETERS, PRECISIONS, Format, Line

_CONFIG = {
    "global_batch_size_to_train_on": "<batch:int>",
    "per_device_batch_size": "<micro_batch>",  # may be less than one
    "max_target_length": "<sequence_length:int>",
    "model_name": "<model:word>",
}


def _config(name: str, value: str, **constants: str) -> Line:
    """Read a line of the configuration that the program prints first; one may stand in other logs of JAX too."""
    return Line(PARAMETERS, rf"\bConfig param {name}: {value}$", constants, weak=True, loose=True)


FORMATS = (
    Format(
        name="maxtext",
        kind="training",
        title="MaxText",
        example="completed step: 7, seconds: 2.345, TFLOP/s/device: 210.987, Tokens/s/device: 6543.210, "
        "total_weights: 65536, loss: 9.876",
        warmup=2,  # the first step compiles; the second is only handed to the device, and takes no time
        parts=(
            *(_config(name, value) for name, value in _CONFIG.items()),
            *(_config("dtype", name, precision=precision) for name, precision in PRECISIONS.items()),
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
