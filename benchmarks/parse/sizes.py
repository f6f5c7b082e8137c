"""What many small logs and one large one cost: 100,000 of 20 steps each, read and then unchanged, and 5 GB in one file.

    .venv/bin/python benchmarks/parse/sizes.py

The small ones lie in 400 folders and have the form of llm.c, 1 kB each. They are read without a cache, into an empty
one and unchanged, each time by a process of its own. The large one is the sparse log of `measure.py`: a record in fifty
lines.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from measure import run, write

READ = """
import sys, time
import pandas, pyarrow.csv
from hpcbench.parse import parse
began = time.perf_counter()
metrics = parse(sys.argv[1], workers=int(sys.argv[2]), cache=sys.argv[3] == "cache")
seconds = time.perf_counter() - began
assert metrics.steps["loss"].notna().all() and (metrics.sources["records"] > 0).all()
print(len(metrics.steps), seconds)
"""


def small(folder: Path, count: int) -> None:
    for number in range(count):
        place = folder / f"bs{number % 20}" / f"threads{number // 20 % 20}"
        place.mkdir(parents=True, exist_ok=True)
        steps = [(step, 5 - step / 10 + number % 7 / 100, 1452.121 + step + number % 11) for step in range(20)]
        lines = [f"step {step}: train loss {loss:.6f} (took {took:.6f} ms)\n" for step, loss, took in steps]
        (place / f"run{number // 400}.log").write_text("".join(lines))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--files", type=int, default=100_000)
    arguments.add_argument("--gigabytes", type=float, default=5)
    arguments.add_argument("--rounds", type=int, default=3, help="of the large file")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        small(folder / "logs", options.files)
        time.sleep(3)  # what was written this moment is not kept in the cache
        size = sum(file.stat().st_size for file in (folder / "logs").rglob("*.log"))
        print(f"{options.files} files, {size / 1e6:.0f} MB")
        for what, workers, cache in (
            ("without a cache", 1, "none"), ("without a cache, 2 workers", 2, "none"),
            ("into an empty cache", 1, "cache"), ("unchanged", 1, "cache"), ("unchanged, again", 1, "cache"),
        ):  # fmt: skip
            command = [sys.executable, "-c", READ, str(folder / "logs"), str(workers), cache]
            _, own, memory, count = run(command, folder)
            assert count == 20 * options.files, count
            print(f"{what:28} {own:7.2f} s {own / options.files * 1e6:7.0f} µs a file {memory:6.0f} MB")
        kept = sum(file.stat().st_size for file in (folder / "cache").rglob("*.parquet"))
        print(f"the cache holds {kept / 1e6:.1f} MB")
        log = folder / "large.log"
        records = write(log, int(options.gigabytes * 1e9), 50)
        times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for _ in range(options.rounds + 1):
            for workers, own_times in times.items():
                _, own, memory, count = run([sys.executable, "-c", READ, str(log), str(workers), "none"], folder)
                assert count == records, (count, records)
                own_times.append((own, memory))
        size = log.stat().st_size
        for workers, rows in times.items():  # the first round is left out: it may wait for the disk
            own, memory = (statistics.median(column) for column in zip(*rows[1:], strict=True))
            print(f"{size / 1e9:.1f} GB, {records} records, {workers} workers: ", end="")
            print(f"{own:.2f} s, {size / own / 1e6:.0f} MB/s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
