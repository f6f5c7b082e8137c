"""TorchTitan (pytorch/torchtitan): the lines of its metrics, with and without gradient norm and TFLOP/s."""

from __future__ import annotations

from hpcbench.formats import PARAMETERS, Format, Line
from hpcbench.rows import Tables, column

_TIME = r"(?:<time:stamp> - \w+ - INFO - )?"


def _flops(tables: Tables) -> None:
    """Read the TFLOP/s, which are printed with both separators: ``1,234.56``."""
    steps = tables.get("steps")
    if steps is not None and "tflops" in steps:
        texts = steps.columns.pop("tflops").tolist()
        if any(texts):
            values = [float(text.replace(",", "")) * 1e12 if text else float("nan") for text in texts]
            steps.columns["flops_per_second_per_device"] = column(values)


FORMATS = (
    Format(
        name="torchtitan",
        kind="training",
        title="TorchTitan",
        example="[rank0]:[titan] 2025-03-04 05:06:07,890 - root - INFO - step: 40  loss:  5.1234  grad_norm:  1.2345  "
        "memory: 40.12GiB(50.65%)  tps: 7,123  tflops: 401.25  mfu: 40.57%",
        warmup=1,
        parts=(
            Line(  # once as the trainer begins, in older versions as training does
                PARAMETERS,
                r"\bwith local batch size <micro_batch:int>, global batch size <batch:int>,"
                r"(?=(?:.{0,80}? sequence length <sequence_length:int>,)?)",
                weak=True,
                loose=True,
                anchor=" with local batch size ",
            ),
            Line(
                PARAMETERS,
                r"\bBuilding device mesh with parallelism: pp=<pipeline_parallel:int>, dp_replicate=\d{1,9}, "
                r"dp_shard=\d{1,9}, cp=\d{1,9}, tp=<tensor_parallel:int>,",
                weak=True,
                loose=True,
            ),
            Line(
                "steps",
                rf"{_TIME}(?<!validate )step: +<step:int>  loss: +<loss>  (?:grad_norm: +<grad_norm>  )?"
                r"memory: +<max_device_memory GiB>GiB\([\d.]+%\)"
                r"  tps: <tokens_per_second_per_device:thousands>  (?:tflops: (?P<tflops>\d[\d,]*\.\d\d)  )?"
                r"mfu: <mfu %>%",
                anchor="  mfu: ",
            ),
            Line(
                "evals",
                rf"{_TIME}validate step: +<step:int>  loss: +<value>  memory: ",
                constants={"task": "validation", "metric": "loss"},
            ),
        ),
        finish=_flops,
    ),
)
