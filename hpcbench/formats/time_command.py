"""What `time` prints: that of bash, POSIX shells and zsh, and the programs of GNU and macOS."""

from __future__ import annotations

import re

from hpcbench.formats import Block, Format, Line, Reading, Record, duration

_NAMES = {b"real": "wall_time", b"user": "user_time", b"sys": "system_time"}
_CLOCK = rb"(?:(?:\d+h)?\d+m\d+[.,]\d+s|\d+[.,]\d\d)"  # bash's, or POSIX's with its two decimals
_SHELL = re.compile(rb"[ \t]*(real|user|sys)[ \t]+(" + _CLOCK + rb")[ \t]*\r?(?=\n|\Z)")


def _shell(data: bytes) -> Reading:
    """Read the three lines of bash and POSIX; one of them alone is a word in a text."""
    found: dict[bytes, Record] = {}
    for number, line in enumerate(data.split(b"\n")[:4], 1):
        match = _SHELL.fullmatch(line)
        if match is None and found and line.strip():
            break
        if match is not None:
            found[match[1]] = Record(
                "counters", number, {"name": _NAMES[match[1]], "value": duration(match[2]), "unit": "s"}
            )
    return ([*found.values()], 0) if {b"real", b"user"} <= found.keys() else ([], 0)


def _seconds(name: str, pattern: str, *, weak: bool = False) -> Line:
    return Line("counters", pattern, constants={"name": name, "unit": "s"}, weak=weak)


def _plain(name: str, label: str) -> Line:
    return Line("counters", rf"^[ \t]*{label}: <value:int>", constants={"name": name, "unit": ""}, weak=True)


FORMATS = (
    Format(
        name="time",
        title="time of bash and POSIX shells",
        example="real\t0m4.442s",
        parts=(Block("real", _shell, size=200),),
    ),
    Format(
        name="gnu-time",
        title="GNU time -v",
        example="\tMaximum resident set size (kbytes): 1780",
        parts=(
            _seconds("wall_time", r"Elapsed \(wall clock\) time \(h:mm:ss or m:ss\): <value:clock>"),
            _seconds("user_time", r"^[ \t]*User time \(seconds\): <value:.2>", weak=True),
            _seconds("system_time", r"^[ \t]*System time \(seconds\): <value:.2>", weak=True),
            Line(
                "counters",
                r"Maximum resident set size \(kbytes\): <value KiB>",
                constants={"name": "max_memory", "unit": "B"},
            ),
            _plain("major_page_faults", r"Major \(requiring I/O\) page faults"),
            _plain("minor_page_faults", r"Minor \(reclaiming a frame\) page faults"),
            _plain("voluntary_context_switches", r"Voluntary context switches"),
            _plain("involuntary_context_switches", r"Involuntary context switches"),
            _plain("exit_status", r"Exit status"),
        ),
    ),
)
