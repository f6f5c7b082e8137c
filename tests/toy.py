"""A benchmark small enough to run many times: its program does what its parameter `act` says, and counts its runs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

BENCHMARK = """\
title: A toy
parameters:
  act: {type: str, default: ok, help: what the program does}
  threads: {type: int, default: 1, min: 1, help: cores asked for}
  seconds: {type: float, default: 0, min: 0, help: how long it takes}
program: toy_program.py
command: ["{{ python }}", "{{ program }}", "--act={{ act }}", "--seconds={{ seconds }}"]
resources: {cores: "{{ threads }}"}
logs: {stdout.log: hpcbench-records}
end: {file: stdout.log, text: '"kind": "finished"'}
headline: [step_time]
"""

PROGRAM = """\
import json, os, resource, signal, sys, time

act = sys.argv[1].removeprefix("--act=")
seconds = float(sys.argv[2].removeprefix("--seconds="))
# one short append: whole, whoever else writes
with open("../ran", "ab", buffering=0) as ran:
    ran.write((os.path.basename(os.getcwd()) + "\\n").encode())


def record(**row):
    print(json.dumps(row), flush=True)


record(record="event", kind="argument", message=act)
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
record(record="event", kind="cores", message=json.dumps(cores))
record(record="event", kind="environment", message=json.dumps(dict(os.environ)))
if act == "silent":
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for step in range(3):
    record(record="step", step=step, loss=5.0 - step, step_time=0.25 + step / 100, warmup=step == 0)
time.sleep(seconds)
if act == "exit 3":
    sys.exit(3)
if act == "kill 9":
    os.kill(os.getpid(), signal.SIGKILL)
if act == "memory":
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    bytearray(4 << 30)
if act == "hang":
    time.sleep(600)
if act == "ignore TERM":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    record(record="event", kind="ignoring")
    time.sleep(600)
if act == "leave a child":
    import subprocess

    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
record(record="event", kind="finished")
"""


def write(folder: Path, benchmark: str = BENCHMARK, program: str = PROGRAM) -> None:
    """Put the benchmark `toy` under `folder`/templates, and a site that is this machine under `folder`/sites."""
    (folder / "templates" / "toy").mkdir(parents=True)
    (folder / "templates" / "toy" / "benchmark.yaml").write_text(benchmark)
    (folder / "templates" / "toy" / "toy_program.py").write_text(program)


def hpcbench(
    *arguments: str, cwd: Path, check: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would; `check` is the exit status expected."""
    done = subprocess.run(
        [sys.executable, "-m", "hpcbench", *arguments],
        cwd=cwd,
        env={**os.environ, "XDG_CONFIG_HOME": str(cwd / "config"), "XDG_CACHE_HOME": str(cwd / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if check is not None:
        assert done.returncode == check, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def states(cwd: Path, run: str) -> dict[str, str]:
    """Return case → state as `hpcbench status --json` tells it."""
    out = hpcbench("status", run, "--json", cwd=cwd, check=0).stdout
    return {case["case"]: case["state"] for case in json.loads(out)["cases"]}


def ran(cwd: Path, run: str) -> list[str]:
    """Return the cases whose program ran, once each time it did."""
    file = cwd / "logs" / run / "ran"
    return file.read_text().split() if file.exists() else []


def until(condition, seconds: float = 60.0) -> None:
    """Wait for a condition, and fail when it never comes."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def processes_under(folder: Path) -> dict[int, str]:
    """Return the processes whose command line or working folder names `folder`: pid → command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = str((entry / "cwd").readlink())
        except OSError:
            continue
        if int(entry.name) != os.getpid() and (str(folder) in command or place.startswith(str(folder))):
            found[int(entry.name)] = command
    return found


def kill(pids) -> None:
    """SIGKILL processes that may be gone already."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def free_port() -> int:
    """Return a port of loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
