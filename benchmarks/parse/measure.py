"""How fast logs are read: hpcbench against a plain Python loop, polars, ReFrame and ripgrep, in turn.

    python -m venv .venv-peers && .venv-peers/bin/pip install polars pandas ReFrame-HPC
    .venv/bin/python benchmarks/parse/measure.py --peers .venv-peers/bin/python

Two logs in Cerebras' form are written: every line a record of four numbers (180 MB), and one line in fifty (270 MB).
Each contender is a process that reads the four values of every record into columns and prints how many there were and
how long reading took, imports left out; the time and the peak memory of the whole process are measured around it.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HPCBENCH = """
import sys, time
import hpcbench.parse, hpcbench.parse.engine, pandas, pyarrow.csv
from hpcbench.parse import parse
from hpcbench.formats import custom
hpcbench_scanner = sys.modules["hpcbench.parse.engine"].scanner
hpcbench_scanner(sys.modules["hpcbench.parse.engine"].Choice(None, custom.keys()))
began = time.perf_counter()
metrics = parse(sys.argv[1], workers={workers}, cache=False)
steps = metrics.steps
assert steps["samples_per_second"].notna().all() and steps["mean_samples_per_second"].notna().all()
print(len(steps), time.perf_counter() - began)
"""
PYTHON = """
import re, sys, time
import pandas
began = time.perf_counter()
line = re.compile(r"Step=(\\d+), Loss=([\\d.]+), Rate=([\\d.]+) samples/sec, GlobalRate=([\\d.]+)")
rows = []
with open(sys.argv[1]) as log:
    for text in log:
        match = line.search(text)
        if match:
            rows.append((int(match[1]), float(match[2]), float(match[3]), float(match[4])))
table = pandas.DataFrame(rows, columns=["step", "loss", "rate", "global_rate"])
print(len(table), time.perf_counter() - began)
"""
POLARS = """
import sys, time
import polars
began = time.perf_counter()
pattern = r"Step=(?<step>\\d+), Loss=(?<loss>[\\d.]+), Rate=(?<rate>[\\d.]+) samples/sec, "
pattern += r"GlobalRate=(?<global_rate>[\\d.]+)"
lines = polars.read_csv(sys.argv[1], has_header=False, separator="\\x01", quote_char=None, new_columns=["line"])
table = (
    lines.filter(polars.col("line").str.contains("Step=", literal=True))
    .select(polars.col("line").str.extract_groups(pattern)).unnest("line").drop_nulls()
    .cast({"step": polars.Int64, "loss": polars.Float64, "rate": polars.Float64, "global_rate": polars.Float64})
)
print(len(table), time.perf_counter() - began)
"""
REFRAME = """
import sys, time
import reframe.utility.sanity as sn
began = time.perf_counter()
patterns = [r"Step=(\\d+),", r"Loss=([\\d.]+),", r", Rate=([\\d.]+) ", r"GlobalRate=([\\d.]+) "]
kinds = [int, float, float, float]
columns = [sn.evaluate(sn.extractall(p, sys.argv[1], 1, k)) for p, k in zip(patterns, kinds)]
print(len(columns[0]), time.perf_counter() - began)
"""


def write(file: Path, size: int, one_in: int) -> int:
    """Write a log of `size` bytes; returns how many records it holds."""
    draw = random.Random(1)
    noise = [  # what no format reads
        "2025-10-13 15:20:04,385 INFO:   Worker 3 of 8 has read 4096 samples from the shard train-00017-of-00128.h5 "
        "and goes on to the next one\n",
        "2025-10-13 15:20:04,385 DEBUG:  The queue between reader and host holds 12 of 16 batches, none was late\n",
        "2025-10-13 15:21:00,123 INFO:   Defaulted to the namespace of the job operator as this node's configuration "
        "has access to no other.\n",
    ]
    written = number = records = 0
    with file.open("w") as log:
        while written < size:
            number += 1
            if number % one_in == 0:
                records += 1
                line = (
                    f"2025-10-13 15:{number // 60 % 60:02d}:{number % 60:02d},385 INFO:   | Train Device=CSX, "
                    f"Step={records}, Loss={draw.uniform(2, 10):.5f}, Rate={draw.uniform(20, 40):.2f} samples/sec, "
                    f"GlobalRate={draw.uniform(20, 40):.2f} samples/sec, LoopTimeRemaining=1:20:41, "
                    "TimeRemaining=1:20:41\n"
                )
            else:
                line = noise[number % 3]
            written += log.write(line)
    return records


def run(command: list[str], cwd: Path) -> tuple[float, float, float, int]:
    """Run a process: seconds in all, seconds it says that reading took, peak memory in MB, records."""
    read, out = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.chdir(cwd)
        os.dup2(out, 1)
        os.close(read)
        os.execvp(command[0], command)
    os.close(out)
    with os.fdopen(read) as stream:
        words = stream.read().split()
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[0]} ended with status {status}")
    own = float(words[1]) if len(words) > 1 else seconds
    return seconds, own, usage.ru_maxrss / 1024, int(words[0])


def contenders(peers: str | None) -> dict[str, list[str]]:
    found = {
        "hpcbench": [sys.executable, "-c", HPCBENCH.format(workers=1)],
        "hpcbench, 2 workers": [sys.executable, "-c", HPCBENCH.format(workers=2)],
        "Python re.search, pandas": [sys.executable, "-c", PYTHON],
    }
    if peers:
        found["polars extract_groups, 2 threads"] = ["env", "POLARS_MAX_THREADS=2", peers, "-c", POLARS]
        found["ReFrame, 4 x extractall"] = [peers, "-c", REFRAME]
    if shutil.which("rg"):
        found["rg -c (count only)"] = ["rg", "-c", r"Step=\d+, Loss="]
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--peers", help="the Python of an environment that has polars, pandas and ReFrame-HPC")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    options.peers = options.peers and str(Path(options.peers).absolute())
    with tempfile.TemporaryDirectory() as folder:
        for name, size, one_in in (("dense", 180_000_000, 1), ("sparse", 270_000_000, 50)):
            log = Path(folder) / f"{name}.log"
            records = write(log, size, one_in)
            times: dict[str, list[tuple[float, float, float]]] = {}
            for _ in range(options.rounds):
                for contender, command in contenders(options.peers).items():
                    seconds, own, memory, count = run([*command, str(log)], Path(folder))
                    assert count == records, (contender, count, records)
                    times.setdefault(contender, []).append((seconds, own, memory))
            total = log.stat().st_size
            print(f"\n{name}: {total / 1e6:.0f} MB, {records} records; median of {options.rounds} rounds")
            print(f"{'':34} {'process s':>9} {'reading s':>9} {'MB/s':>6} {'peak MB':>8}")
            for contender, rows in times.items():
                seconds, own, memory = (statistics.median(column) for column in zip(*rows, strict=True))
                print(f"{contender:34} {seconds:9.2f} {own:9.2f} {total / own / 1e6:6.0f} {memory:8.0f}")
            log.unlink()


if __name__ == "__main__":
    main()
