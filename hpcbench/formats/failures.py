"""How programs, launchers and schedulers say that something failed, whatever the log's format."""

from __future__ import annotations

import re

import numpy as np

from hpcbench.formats import PREFIX, Block, Format, Line, Reading, Record
from hpcbench.metrics import shown
from hpcbench.rows import Tables

_HEAD = b"Traceback (most recent call last):"
_PREFIX = re.compile(PREFIX.encode())
_CLOCK = re.compile(rb"\d\d:\d\d:\d\d(?:[.,]\d{1,9})?")
# the last line of a traceback: an exception, by its class
_EXCEPTION = re.compile(rb"(?:\w{1,80}\.){0,12}(?P<name>[A-Z]\w{0,80}[a-z]\w{0,80})(?:: .*|:)?")
_SURE = re.compile(rb"(?:Error|Exception|Interrupt|Exit|Timeout|Expired|Failure|Warning)$")


def _traceback(data: bytes) -> Reading:
    """Read a traceback of Python: its last line, which names the exception, stands for it.

    Every line may begin with what a launcher or a logger writes; lines of other ranks may stand between.
    """
    head, *rest = data.split(b"\n", 2000)
    at = head.find(_HEAD)
    before = head[:at]
    if head[at + len(_HEAD) :].strip():
        return [], 0  # a sentence goes on
    own = _PREFIX.fullmatch(before) is not None and not before.endswith(b"  ")
    if not own and not any(_starts(line, before) and b'  File "' in line for line in rest[:3]):
        return [], 0  # a sentence ends
    message, inside = head[at:], True
    for line in rest:
        if not _starts(line, before):
            inside = False
            continue
        text = line[len(before) :].rstrip()
        if text.startswith((b" ", b"\t")) or not text:
            inside = True
            continue
        match = _EXCEPTION.fullmatch(text[:4000])
        if match and (inside or _SURE.search(match["name"])):
            message = text
            break
        inside = False
    return [Record("events", 1, {"kind": "traceback", "message": _message(message)})], 0


def _starts(line: bytes, before: bytes) -> bool:
    """Tell whether a line begins as another does; the time may be later."""
    return line.startswith(before) or _CLOCK.sub(b"", line[: len(before)]) == _CLOCK.sub(b"", before)


def _cuda_error(data: bytes) -> Reading:
    """Read llm.c's two lines: where it happened, and what."""
    where, _, rest = data.partition(b"\n")
    what = rest.partition(b"\n")[0].strip()
    if not where.lstrip().startswith(b"[CUDA ERROR]") or not what:
        return [], 0
    kind = "out_of_memory" if what == b"out of memory" else "cuda_error"
    return [Record("events", 1, {"kind": kind, "message": _message(b" ".join([where, what]))})], 0


def _mpirun(data: bytes) -> Reading:
    """Read Open MPI's two lines: the process that failed first, and its exit code."""
    lines = data.split(b"\n", 2)
    if len(lines) < 2 or not re.fullmatch(rb"[ \t]*Exit code: +(?!0[ \t\r]*$)\d{1,5}[ \t\r]*", lines[1]):
        return [], 0
    return [Record("events", 2, {"kind": "failed", "message": _message(b", ".join(map(bytes.strip, lines[:2])))})], 0


def _message(text: bytes) -> str:
    return shown(" ".join(text.decode(errors="replace").split()), 500)


def _event(kind: str, pattern: str, anchor: str = "") -> Line:
    return Line("events", pattern, constants={"kind": kind}, anchor=anchor, loose=True)


def _signal(kind: str, words: str, name: str) -> tuple[Line, ...]:
    """Make the lines in which shells, srun, Python, Open MPI and UCX say that a signal ended a process."""
    return (
        _event(kind, rf"^{words}(?: *\(core dumped\))?$"),
        _event(
            kind,
            rf"(?:: line \d{{1,9}}: +\d{{1,9}} |\bsrun: error: .{{1,500}}: |\bFatal Python error: |\] +Signal: "
            rf"|\b[Cc]aught signal \d{{1,3}} \(){words}(?: +\(core dumped\)|[ :)]|$)",
            words,
        ),
        _event(kind, rf"\bzsh: {words.lower()} "),
        _event(
            kind, rf"\bfish: Job \d{{1,9}}, .{{1,500}} terminated by signal {name}\b", f" terminated by signal {name}"
        ),
    )


_STEP_LIMIT = "step_time_limit"  # for `_judge` alone
_STEPD = r"\bslurmstepd(?:-[\w.-]{1,80})?: error: "  # with the node, where a host runs several slurmd
_SLURM = r"\*\*\* (?:JOB|STEP) .{1,200} CANCELLED AT <time:stamp>"
_SRUN = r"\bsrun: error: .{1,500}: tasks? [-\d,\[\]]{1,500}: "
# Nothing unbounded stands between the words: a megabyte without a line break must not take time that is quadratic in
# its length. The words alone could stand in any text: each pattern holds what surrounds them when they are meant.
PARTS: tuple[Line | Block, ...] = (
    _event("out_of_memory", r"^(?:[\w.]{1,80}\.)?OutOfMemoryError(?::|$)", "OutOfMemoryError"),
    _event("out_of_memory", r"^(?:[\w.]{1,80}\.)?MemoryError(?::|$)", "MemoryError"),
    _event("out_of_memory", r"\bDefaultCPUAllocator: (?:can't|not enough) "),
    _event("out_of_memory", r"^(?:[\w.]{1,80}: )?(?:CUDA|HIP|XPU) out of memory\b"),
    _event("out_of_memory", r"\b(?:CUDA|HIP|XPU) out of memory\. Tried to allocate "),
    _event("out_of_memory", r"\b(?:CUDA|HIP) error: out of memory\b"),
    _event("out_of_memory", r"\bcudaMalloc(?:Async|Host|Managed)? failed: out of memory\b"),
    _event("out_of_memory", r"(?:[:=] |\()CUDA_ERROR_OUT_OF_MEMORY\b"),
    _event(
        "out_of_memory", r"\bRESOURCE_EXHAUSTED: (?:[Oo]ut of memory|Failed to allocate|OOM )", "RESOURCE_EXHAUSTED: "
    ),
    _event("out_of_memory", r"\bOOM when allocating tensor with shape"),
    _event("out_of_memory", r"(?:what\(\): +|instance of ')std::bad_alloc\b"),
    _event("out_of_memory", r"\berror: Detected \d{1,9} oom[-_]kill event", "kill event"),
    _event("out_of_memory", r"(?:: |\] )Cannot allocate memory\b"),
    _event("out_of_memory", r"\b[Oo]ut of memory: Kill(?:ed)? process \d", "ut of memory: Kill"),
    _event("out_of_memory", r"\binvoked oom-killer: gfp_mask="),
    _event("out_of_memory", r"\boom-kill:constraint=CONSTRAINT_"),
    _event("out_of_memory", rf"{_STEPD}.{{1,300}}\b[Ee]xceeded (?:job |step )?memory limit\b"),
    _event("out_of_memory", rf"{_SRUN}Out Of Memory\b"),
    _event("out_of_memory", r"=>> PBS: job killed: p?v?mem \d{1,18}\w{0,2} exceeded limit"),
    Block("Traceback (most recent call last):", _traceback, size=1 << 18),
    _event("assertion", r"\bAssertion [`'][^`]{1,1000}[`'] failed\b", "Assertion "),
    _event("assertion", r"\bGGML_ASSERT\(.{1,500}\) failed\b"),
    # of the job; that a step of it reached its own limit need not be a failure
    _event("time_limit", rf"{_STEPD}\*\*\* JOB .{{1,200}} CANCELLED AT <time:stamp> DUE TO TIME LIMIT\b"),
    _event(_STEP_LIMIT, rf"{_STEPD}\*\*\* STEP .{{1,200}} CANCELLED AT .{{10,40}} DUE TO TIME LIMIT\b"),
    _event("time_limit", r"=>> PBS: job killed: walltime \d{1,12} exceeded limit \d"),
    _event("cancelled", rf"{_SLURM} \*\*\*", " CANCELLED AT "),
    _event("node_failure", rf"{_SLURM} DUE TO NODE FAILURE\b"),
    _event("node_failure", r"\b(?:srun|salloc|slurmstepd(?:-[\w.-]{1,80})?): error: Node failure on "),
    _event("preempted", rf"{_SLURM} DUE TO PREEMPTION\b"),
    _event("nccl_timeout", r"\bWatchdog caught collective operation timeout: WorkNCCL\("),
    _event("nccl_timeout", r"\bProcessGroupNCCL's watchdog got stuck for \d"),
    _event("nccl_error", r"\bSome NCCL operations have failed or timed out\. "),
    _event("nccl_error", r"^(?:[\w.]{1,80}: )?NCCL error(?: in)?: "),
    _event("nccl_error", r"^nccl(?:UnhandledCuda|System|Internal|Remote)Error: ", "Error: "),
    _event("nccl_error", r"^ncclInvalid(?:Usage|Argument): "),
    _event("nccl_error", r"^\[NCCL ERROR\] at file "),
    _event("nccl_error", r"\bTest NCCL failure [\w.]{1,80}:\d"),
    _event("cuda_error", r"^(?:[\w.]{1,80}: )?CUDA error: (?!out of memory)."),
    _event("cuda_error", r"\bwhat\(\): +CUDA error: (?!out of memory)."),
    Block("[CUDA ERROR] at file ", _cuda_error, size=2000),
    *_signal("aborted", "Aborted", "SIGABRT"),
    *_signal("segmentation_fault", "Segmentation fault", "SIGSEGV"),
    *_signal("bus_error", "Bus error", "SIGBUS"),
    *_signal("illegal_instruction", "Illegal instruction", "SIGILL"),
    *_signal("killed", "Killed", "SIGKILL"),
    _event("aborted", r"\bterminate called after throwing an instance of '"),
    _event("aborted", r"\bMPI_ABORT was invoked on rank \d"),
    _event("failed", rf"{_SRUN}Exited with exit code [1-9]"),
    _event("failed", r"^ *exitcode {2,}: -?[1-9]\d{0,5} \(pid: \d", "exitcode  "),  # torchrun's table
    _event("failed", r"\bfailed \(exitcode: -?[1-9]\d{0,5}\) local_rank: \d"),
    _event("failed", r"\bnoticed that process rank \d{1,9} with PID \d{1,9} on node .{1,200} exited on\b"),
    _event("failed", r"^= +EXIT CODE: [1-9]\d{0,5}$"),  # MPICH
    _event(
        "failed", r"\brank \d{1,9} (?:exited with code [1-9]\d{0,5}|died from signal \d{1,3})\b", "rank "
    ),  # Cray PALS
    _event("failed", r"^[ \t]*Command (?:exited with non-zero status|terminated by signal) \d{1,3}$"),  # GNU time
    _event(
        "failed", r"^[^ :]{1,300}: error: unrecognized arguments: ", ": error: unrecognized arguments: "
    ),  # argparse
    Block("Process name: [[", _mpirun, size=500),
)


def _judge(tables: Tables) -> None:
    """Leave out what a step that reached its own time limit is said to have ended with: the job may have succeeded."""
    events = tables.get("events")
    if events is None:
        return
    limits = events.line[events["kind"] == _STEP_LIMIT]
    near = np.array([bool(np.any(np.abs(limits - line) <= 3)) for line in events.line.tolist()], dtype=bool)
    tables["events"] = events.where(~((events["kind"] == _STEP_LIMIT) | ((events["kind"] == "failed") & near)))


FORMATS = (
    Format(
        name="failures",
        kind="system",
        title="what programs and schedulers say when something fails, in any log",
        example="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        parts=PARTS,
        finish=_judge,
    ),
)


def out_of_memory(log: bytes) -> str | None:
    """Return the last line of `log` that says memory ran out, or None."""
    from hpcbench.parse.content import read_bytes, records

    events = [each.values for each in records(read_bytes(log, ("failures",))) if each.table == "events"]
    lines = [str(each["message"]) for each in events if each.get("kind") == "out_of_memory"]
    return lines[-1][:300] if lines else None
