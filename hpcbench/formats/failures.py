"""How programs and schedulers say that something failed, whatever the log's format."""

from __future__ import annotations

from hpcbench.formats import Block, Format, Line, Reading, Record
from hpcbench.metrics import shown


def _cuda_error(data: bytes) -> Reading:
    """Read llm.c's two lines: where it happened, and what."""
    where, _, rest = data.partition(b"\n")
    what = rest.partition(b"\n")[0].strip()
    if not where.lstrip().startswith(b"[CUDA ERROR]") or not what:
        return [], 0
    kind = "out_of_memory" if what == b"out of memory" else "cuda_error"
    message = shown(b" ".join([where, what]).decode(errors="replace"), 500)
    return [Record("events", 1, {"kind": kind, "message": message})], 0


def _event(kind: str, pattern: str, anchor: str = "") -> Line:
    return Line("events", pattern, constants={"kind": kind}, anchor=anchor)


# Nothing unbounded stands between the words: a megabyte without a line break must not take time that is quadratic in
# its length.
PARTS: tuple[Line | Block, ...] = (
    _event("out_of_memory", r"^(?:[\w.]{1,80}\.)?OutOfMemoryError\b"),
    _event("out_of_memory", r"^(?:[\w.]{1,80}\.)?MemoryError\b"),
    _event("out_of_memory", r"\bDefaultCPUAllocator: (?:can't|not enough) "),
    _event("out_of_memory", r"\b(?:CUDA|HIP) out of memory\b"),
    _event("out_of_memory", r"\bCUDA error: out of memory\b"),
    _event("out_of_memory", r"\bCUDA_ERROR_OUT_OF_MEMORY\b"),
    _event("out_of_memory", r"\bstd::bad_alloc\b"),
    _event("out_of_memory", r"\boom[-_]kill event", "kill event"),
    _event("out_of_memory", r"\bCannot allocate memory\b"),
    _event("out_of_memory", r"\bOut of memory: Killed process \d"),
    _event("traceback", r"^Traceback \(most recent call last\):"),
    _event("assertion", r"\bAssertion [`'].{1,1000}' failed\b", "Assertion "),
    # of the job; that a step of it reached its own limit need not be a failure
    _event("time_limit", r"\bslurmstepd: error: \*\*\* JOB .{1,200} CANCELLED AT <time:stamp> DUE TO TIME LIMIT\b"),
    Block("[CUDA ERROR] at file ", _cuda_error, size=2000),
)
FORMATS = (
    Format(
        name="failures",
        title="what programs and schedulers say when something fails, in any log",
        example="torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
        parts=PARTS,
    ),
)


def out_of_memory(log: bytes) -> str | None:
    """Return the last line of `log` that says memory ran out, or None."""
    from hpcbench.parse.content import read_bytes, records

    events = [each.values for each in records(read_bytes(log, ("failures",))) if each.table == "events"]
    lines = [str(each["message"]) for each in events if each.get("kind") == "out_of_memory"]
    return lines[-1][:300] if lines else None
