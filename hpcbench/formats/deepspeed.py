"""DeepSpeed: what its engine, its throughput timer and its pipeline engine log."""

from __future__ import annotations

from hpcbench.formats import Format, Line

_MEMORY = r", MemAllocated=<memory_allocated GiB>GB, MaxMemAllocated=<max_device_memory GiB>GB"  # it divides by 1024³
FORMATS = (
    Format(
        name="deepspeed",
        kind="training",
        title="DeepSpeed",
        example="[2024-02-03 09:10:11,123] [INFO] [logging.py:96:log_dist] [Rank 0] step=10, skipped=1, "
        "lr=[0.0003, 0.0003], mom=[(0.9, 0.95), (0.9, 0.95)]",
        warmup=1,
        parts=(
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
