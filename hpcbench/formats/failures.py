"""How programs say that they failed, whatever the log's format."""

from __future__ import annotations

import re

# kind of event → what the line looks like. First match wins; the event's message is the line.
PATTERNS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    (
        "out_of_memory",
        re.compile(
            rb"^(?:[\w.]+\.)?(?:OutOfMemoryError|MemoryError)\b.*$"
            rb"|^.*\bDefaultCPUAllocator: (?:can't|not enough) .*$"
            rb"|^.*\b(?:CUDA|HIP) out of memory\b.*$"
            rb"|^.*\[CUDA ERROR\].* out of memory.*$"
            rb"|^.*\bstd::bad_alloc\b.*$"
            rb"|^.*\b(?:oom-kill|oom_kill) event.*$"
            rb"|^.*\bCannot allocate memory\b.*$",
            re.MULTILINE,
        ),
    ),
    ("traceback", re.compile(rb"^Traceback \(most recent call last\):.*$", re.MULTILINE)),
    ("assertion", re.compile(rb"^.*\bAssertion [`'].*' failed\b.*$", re.MULTILINE)),
)


def out_of_memory(log: bytes) -> str | None:
    """Return the last line of `log` that says memory ran out, or None."""
    lines = [match[0] for match in PATTERNS[0][1].finditer(log)]
    return lines[-1].decode(errors="replace").strip()[:300] if lines else None
