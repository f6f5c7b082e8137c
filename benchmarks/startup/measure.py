"""How long `hpcbench --help` takes against `python -c "import click"`, in turn, as whole processes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 41
HELP = [str(Path(sys.executable).with_name("hpcbench")), "--help"]
CLICK = [sys.executable, "-c", "import click"]
BARE = [sys.executable, "-c", "pass"]


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    times = {name: [] for name in ("bare", "click", "help")}
    for _ in range(ROUNDS):
        for name, command in (("bare", BARE), ("click", CLICK), ("help", HELP)):
            times[name].append(seconds(command))
    ratios = [help_ / click for help_, click in zip(times["help"], times["click"], strict=True)]
    for name, values in times.items():
        print(f"{name:6} median {statistics.median(values) * 1e3:6.1f} ms   (min {min(values) * 1e3:.1f})")
    print(f"help / click, pair by pair: median {statistics.median(ratios):.2f}, of {ROUNDS}")


if __name__ == "__main__":
    main()
