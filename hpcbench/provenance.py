"""What ran where: the facts about a machine and its software that a reader needs to judge a number."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Environment variables that change how a benchmark runs. A fixed list: anything else may hold a secret.
ENVIRONMENT = (
    "CUDA_VISIBLE_DEVICES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME", "LANG", "LC_ALL", "MALLOC_ARENA_MAX",
    "MKL_CBWR", "MKL_DYNAMIC", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "OMP_DYNAMIC", "OMP_NUM_THREADS", "OMP_PLACES",
    "OMP_PROC_BIND", "OMP_SCHEDULE", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "TORCHINDUCTOR_CACHE_DIR",
)  # fmt: skip
# run by the interpreter that is asked: it need not be this one
_ASK = """
import json, platform, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps({"python": platform.python_version(), "libraries": found}))
"""
LIBRARIES = ("torch", "transformers", "numpy", "scipy", "pandas", "pyarrow", "submitit")


def machine() -> dict[str, Any]:
    """Describe this machine: host, operating system, processor, cores, memory (bytes), governor, GPUs."""
    cpu = _cpu()
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": cpu["model"],
        "cores": cpu["cores"],
        "processors": os.cpu_count(),
        "usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _memory(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": round(os.getloadavg()[0], 2),
        "gpus": _gpus(),
    }


def software(python: str | None = None, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Describe hpcbench, and the interpreter that runs workloads with its libraries: `python`, or hpcbench's own.

    Of the environment variables, with `environment` over them, only those of `ENVIRONMENT` are told.
    """
    from hpcbench import __version__

    told = _output(python or sys.executable, "-c", _ASK, *LIBRARIES)
    variables = {**os.environ, **(environment or {})}
    return {
        "hpcbench": __version__,
        "git": _git(Path(__file__).resolve().parent),
        **(json.loads(told) if told else {"python": None, "libraries": {}}),
        "environment": {name: variables[name] for name in ENVIRONMENT if name in variables},
    }


def _cpu() -> dict[str, Any]:
    model, cores = platform.processor() or None, set()
    physical = core = ""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "model name":
            model = value
        elif key == "physical id":
            physical = value
        elif key == "core id":
            core = value
            cores.add((physical, core))
    if model is None and platform.system() == "Darwin":
        model = _output("sysctl", "-n", "machdep.cpu.brand_string")
    return {"model": model, "cores": len(cores) or None}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listed = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return [line.strip() for line in (listed or "").splitlines() if line.strip()]


def _git(folder: Path) -> dict[str, Any] | None:
    """Return the commit that hpcbench itself runs from, and whether files were changed since."""
    top = _output("git", "-C", str(folder), "rev-parse", "--show-toplevel")
    if top is None or Path(top) != folder.parent:  # installed somewhere below an unrelated repository
        return None
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": bool(changes)} if commit else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, errors="replace")
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None
