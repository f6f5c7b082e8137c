"""How programs say that they failed, whatever the log's format."""

from __future__ import annotations

import re
from collections.abc import Iterator

# kind of event → what a line says when it happened. Nothing before the words and nothing unbounded between them: a
# megabyte without a line break must not take time that is quadratic in its length.
PATTERNS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    (
        "out_of_memory",
        re.compile(
            rb"^(?:[\w.]+\.)?(?:OutOfMemoryError|MemoryError)\b"
            rb"|\bDefaultCPUAllocator: (?:can't|not enough) "
            rb"|\b(?:CUDA|HIP) out of memory\b"
            rb"|^\[CUDA ERROR\] at file [^\n]{0,1000}\nout of memory\b"  # llm.c, in two lines
            rb"|\bstd::bad_alloc\b"
            rb"|\b(?:oom-kill|oom_kill) event"
            rb"|\bCannot allocate memory\b",
            re.MULTILINE,
        ),
    ),
    ("traceback", re.compile(rb"^Traceback \(most recent call last\):", re.MULTILINE)),
    ("assertion", re.compile(rb"\bAssertion [`'][^\n]{0,1000}' failed\b")),
    # of the job; that a step of it reached its own limit need not be a failure
    ("time_limit", re.compile(rb"\bslurmstepd: error: \*\*\* JOB [^\n]{0,1000} DUE TO TIME LIMIT\b")),
)
_MAX_TEXT = 500


def find(log: bytes) -> Iterator[tuple[str, int, str]]:
    """Yield kind, line (counted from 1) and text of every line that tells of a failure, one kind after another."""
    for kind, pattern in PATTERNS:
        number, counted, after = 1, 0, 0
        for match in pattern.finditer(log):
            if match.start() < after:  # the line says it twice
                continue
            start = log.rfind(b"\n", 0, match.start()) + 1
            after = (log.find(b"\n", match.end()) + 1) or len(log)
            number += log.count(b"\n", counted, start)
            counted = start
            piece = slice(max(start, match.start() - _MAX_TEXT // 2), min(after, match.end() + _MAX_TEXT))
            yield kind, number, _text(log[piece])


def out_of_memory(log: bytes) -> str | None:
    """Return the last line of `log` that says memory ran out, or None."""
    lines = [text for kind, _, text in find(log) if kind == "out_of_memory"]
    return lines[-1][:300] if lines else None


def _text(line: bytes) -> str:
    """Write a piece of a log as one line without control characters: it goes to terminals and into reports."""
    words = " ".join(line.decode(errors="replace").split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)[:_MAX_TEXT]
