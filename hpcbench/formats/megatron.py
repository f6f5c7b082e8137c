"""Megatron-LM and Megatron-DeepSpeed: the line of an iteration, and the losses of validations and tests."""

from __future__ import annotations

from hpcbench.formats import PARAMETERS, PRECISIONS, Format, Line

# Fields stand between bars and differ by version and options. Each is looked for from the line's beginning, over
# whole fields only: what a second writer or a kill left of one ends the search.
_FIELD = r"[^|:]{1,60}: *[^|: ]{1,40} *\|"
_FIELDS = {
    "samples": "consumed samples",
    "tokens": "consumed tokens",
    "flops_per_second_per_device T": r"(?:throughput per GPU \(TFLOP/s/GPU\)|TFLOPs)",
    "tokens_per_second_per_device": r"tokens per gpu per second ?(?:\(tgs\))?",
    "samples_per_second": "samples per second",
    "energy_per_device": r"energy per GPU \(J/iter/GPU\)",
    "power_per_device": r"power per GPU \(W/GPU\)",
    "lr": "learning rate",
    "global_batch_size": "global batch size",
    "sequence_length": "actual seqlen",
    "loss": "lm loss",
    "loss_scale": "loss scale",
    "grad_norm": "grad norm",
    "skipped_iterations": "number of skipped iterations",
    "nan_iterations": "number of nan iterations",
}


def _iteration(unit: str) -> Line:
    label = rf"elapsed time per iteration \({unit}\)"
    placeholder = "<step_time ms>" if unit == "ms" else "<step_time>"
    optional = "".join(rf"(?=(?:(?:{_FIELD})*? {text}: *<{column}> *\|)?)" for column, text in _FIELDS.items())
    return Line(
        "steps",
        rf"(?<![\w-])iteration +<step:int>/ *\d+ *\|(?=(?:{_FIELD})*? {label}: *{placeholder} *\|){optional}",
        anchor=f"elapsed time per iteration ({unit}): ",
    )


def _score(task: str, place: str, metric: str, text: str) -> Line:
    return Line(
        "evals",
        rf"{place} \|(?: {_FIELD})*? lm loss {text}: *<value> *\|",
        constants={"task": task, "metric": metric},
        anchor=f"lm loss {text}: ",
        loose=True,  # the other task's line has the same words
    )


_PLACES = {
    "validation": r"(?:validation loss at iteration <step:int>(?: on validation set)?|"
    r"at the end of training for val data)",
    "test": r"(?:validation loss at iteration <step:int> on test set|at the end of training for test data)",
}
# The arguments, a line each, dots up to the value. Their names are those of many programs; the line above them is not.
# How many take the same part of the model is left out: it follows from the others.
_ARGUMENTS = {
    "batch": "global_batch_size",
    "micro_batch": "micro_batch_size",
    "sequence_length": "seq_length",
    "processes": "world_size",
    "tensor_parallel": "tensor_model_parallel_size",
    "pipeline_parallel": "pipeline_model_parallel_size",
    "zero_stage": "zero_stage",
}


def _argument(name: str, value: str, **constants: str) -> Line:
    return Line(PARAMETERS, rf"^ *{name} \.{{2,60}} {value}$", constants, weak=True, loose=True, anchor=f" {name} ..")


FORMATS = (
    Format(
        name="megatron",
        kind="training",
        title="Megatron-LM and Megatron-DeepSpeed",
        example=" iteration       20/    5000 | consumed samples:         5120 | elapsed time per iteration (ms): "
        "611.5 | throughput per GPU (TFLOP/s/GPU): 402.3 | learning rate: 3.000000E-06 | global batch size:   256 | "
        "lm loss: 1.050012E+01 | loss scale: 1.0 | grad norm: 6.931 | number of skipped iterations:   0 | "
        "number of nan iterations:   0 |",
        warmup=1,
        parts=(
            Line(PARAMETERS, r"^using world size: <processes:int>, data-parallel"),
            *(_argument(name, f"<{parameter}:int>") for parameter, name in _ARGUMENTS.items()),
            *(
                _argument("params_dtype", rf"torch\.{name}", precision=precision)
                for name, precision in PRECISIONS.items()
                if name in ("float32", "float16", "bfloat16")
            ),
            _iteration("ms"),
            _iteration("s"),
            *(
                _score(task, place, metric, text)
                for task, place in _PLACES.items()
                for metric, text in (("loss", "value"), ("perplexity", "PPL"))
            ),
        ),
    ),
)
