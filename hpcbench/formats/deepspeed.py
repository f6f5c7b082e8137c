"""DeepSpeed: what its engine, its throughput timer and its pipeline engine log."""

from __future__ import annotations

from hpcbench.formats import PARAMETERS, Format, Line

_MEMORY = r", MemAllocated=<memory_allocated GiB>GB, MaxMemAllocated=<max_device_memory GiB>GB"  # it divides by 1024³


def _config(name: str, value: str, **constants: str) -> Line:
    """Read a line of the configuration that the engine prints: no other program's log has one."""
    return Line(
        PARAMETERS, rf"\[config\.py:\d{{1,6}}:print\] +{name} [ .]{{1,40}}{value}$", constants, loose=True,
        anchor=f":print]   {name} ",
    )  # fmt: skip


FORMATS = (
    Format(
        name="deepspeed",
        kind="training",
        title="DeepSpeed",
        example="[2024-02-03 09:10:11,123] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=1, "
        "lr=[0.0003, 0.0003], mom=[(0.9, 0.95), (0.9, 0.95)]",
        warmup=1,
        parts=(
            _config("train_batch_size", "<batch:int>"),
            _config("train_micro_batch_size_per_gpu", "<micro_batch:int>"),
            _config("world_size", "<data_parallel:int>"),  # without those who share a model between them
            _config("zero_optimization_stage", "<zero_stage:int>"),
            _config("fp16_enabled", "True", precision="FP16"),
            _config("bfloat16_enabled", "True", precision="BF16"),
            # of several groups of parameters the first one's learning rate
            Line(
                "steps",
                r"log_dist\] \[Rank \d+\] step=<step:int>, skipped=<skipped_steps:int>, lr=\[<lr>(?:, [^\]]*)?\], "
                r"mom=\[",
                anchor=", skipped=",
            ),
            Line(
                "steps",
                r"(?:global_step=|:stop\] \d+/)<step:int>, RunningAvgSamplesPerSec=<mean_samples_per_second>"
                rf", CurrSamplesPerSec=<samples_per_second>{_MEMORY}",
            ),
            Line(  # versions before 0.7
                "steps",
                rf":stop\] \d+/<step:int>, SamplesPerSec=<mean_samples_per_second>{_MEMORY}",
                anchor=", SamplesPerSec=",
            ),
            Line(
                "steps",
                r"^steps: <step:int> loss: <loss> iter time \(s\): <step_time> samples/sec: <samples_per_second:.3>$",
            ),
        ),
    ),
)
