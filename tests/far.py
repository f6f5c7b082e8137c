"""A cluster as a site: a Slurm of the tests' own by real ssh, or by its own commands as on its login node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import toy
import yaml

_BEFORE = 'if act == "silent":'
# What a program can do at a site that it does not do here. `../go` is how a test tells it to go on.
_MORE = """\
if act == "eat":
    held = bytearray(400 << 20)
    time.sleep(600)
if act == "hang once" and open("../ran").read().split().count(os.path.basename(os.getcwd())) == 1:
    record(record="step", step=100, loss=1.0, step_time=100.0)
    time.sleep(600)
if act == "fail once" and open("../ran").read().split().count(os.path.basename(os.getcwd())) == 1:
    record(record="step", step=100, loss=1.0, step_time=100.0)
    sys.exit(3)
if act == "grow":
    step = 3
    while not os.path.exists("../go"):
        record(record="step", step=step, loss=1.0, step_time=0.25)
        step += 1
        time.sleep(0.1)
if act == "large":
    open("large.bin", "wb").write(bytes(3 << 20))
if act == "hostile":
    import socket

    os.symlink("/etc/passwd", "link")
    os.symlink("/etc", "linked")
    os.mkfifo("pipe")
    place = socket.socket(socket.AF_UNIX)
    place.bind("socket")
    open("two\\nlines", "w").write("x")
    open("tab\\there", "w").write("x")
    os.mkdir("..more")
    open("..more/kept", "w").write("kept")
    for name in ("case.json", "job.sh"):
        open(name, "w").write("{}")
    open("../run.json", "w").write("{}")
    open("../journal.jsonl", "w").write("{}")
"""
PROGRAM = toy.PROGRAM.replace(_BEFORE, _MORE + _BEFORE)
# the same, without the environment in its log
QUIET = PROGRAM.replace('record(record="event", kind="environment"', 'dict(record="event", kind="environment"')


def write(place: Path, server=None, *, program: str = PROGRAM, **keys: Any) -> Path:
    """Put the toy benchmark and the site `far` under `place`; without `server` it is its own login node."""
    toy.write(place, program=program)
    (place / "home").mkdir()
    site(place, server, **keys)
    return place


def site(place: Path, server=None, name: str = "far", **keys: Any) -> None:
    """Write a site file. `keys` replace or, as None, remove those it would have; `job` and `reach` are added to."""
    reach: Any = "local"
    if server is not None:
        reach = {
            "ssh": server.host,
            "port": server.port,
            "user": server.user,
            "identity": str(server.key),
            "known_hosts": str(server.known_hosts),
        }
        reach = _without_none(reach | keys.pop("reach", {}))
    job = {"partition": "RM-shared", "time": "00:10:00", "cores": 1, "memory": "100M"} | keys.pop("job", {})
    description = {
        "title": "Test cluster",
        "reach": reach,
        "scheduler": "slurm",
        "folder": str(place / "remote"),
        "job": _without_none(job),
        "python": sys.executable,
        "benchmark": "toy",
    }
    (place / "sites").mkdir(exist_ok=True)
    (place / "sites" / f"{name}.yaml").write_text(yaml.safe_dump(_without_none(description | keys)))


def hpcbench(*arguments: str, cwd: Path, check: int | None = None, **environment: str):
    """Run the command line as someone whose ~/.ssh is empty."""
    return toy.hpcbench(*arguments, cwd=cwd, check=check, **_own(cwd), **environment)


def background(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start the command line and go on."""
    return subprocess.Popen(
        [sys.executable, "-m", "hpcbench", *arguments],
        cwd=cwd,
        env={**os.environ, **_own(cwd), "XDG_CACHE_HOME": str(cwd / "cache"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def submit(*arguments: str, cwd: Path, check: int | None = 0, **environment: str):
    """Submit to the site `far` as the run `r`."""
    return hpcbench("submit", "--site", "far", "--name", "r", *arguments, cwd=cwd, check=check, **environment)


def cases(cwd: Path, run: str = "r", *options: str, check: int | None = 0) -> dict[str, dict[str, Any]]:
    """Return act → what `hpcbench status --json` tells of its case."""
    out = hpcbench("status", run, "--json", *options, cwd=cwd, check=check).stdout
    return {each["parameters"]["act"]: each for each in json.loads(out)["cases"]}


def states(cwd: Path, run: str = "r", *options: str, check: int | None = 0) -> dict[str, str]:
    """Return act → state."""
    return {act: each["state"] for act, each in cases(cwd, run, *options, check=check).items()}


def remote(cwd: Path, run: str = "r") -> Path:
    """Return the run's folder at the site, or here where the site is this machine."""
    there = cwd / "remote" / run
    return there if there.exists() else cwd / "logs" / run


def ran(cwd: Path, run: str = "r") -> list[str]:
    """Return the cases whose program ran at the site, once each time it did."""
    file = remote(cwd, run) / "ran"
    return file.read_text().split() if file.exists() else []


def journal(cwd: Path, run: str = "r") -> bytes:
    return (cwd / "logs" / run / "journal.jsonl").read_bytes()


def line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of stderr beside the name of the run and what is next; a traceback is a mistake."""
    told = [each for each in done.stderr.splitlines() if not each.startswith("r: ")]
    (only,) = [each for each in told if not (len(told) > 1 and "; once that is mended: hpcbench resume r" in each)]
    assert only.startswith("hpcbench: ")
    return only.removeprefix("hpcbench: ")


def _own(cwd: Path) -> dict[str, str]:
    return {"HOME": str(cwd / "home"), "SSH_AUTH_SOCK": ""}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
