"""What `time` prints: bash's, POSIX's, and GNU time's `-v`."""

from __future__ import annotations

from hpcbench.formats import Format, Line

_CLOCK = r"(?:(?:\d+h)?\d+m\d+[.,]\d+s|\d+[.,]\d\d)"  # bash's, or POSIX's with its two decimals
_GNU_CLOCK = r"(?:\d+:)?\d+:\d+(?:\.\d+)?"


def _seconds(name: str, pattern: str) -> Line:
    return Line("counters", pattern, units={"value": "clock"}, constants={"name": name, "unit": "s"})


def _plain(name: str, label: str) -> Line:
    return Line("counters", rf"[ \t]*{label}: (?P<value>\d+)", constants={"name": name, "unit": ""})


FORMATS = (
    Format(
        name="time",
        title="time of bash and POSIX shells",
        example="real\t0m4.442s",
        sniff=rf"^real[ \t]+{_CLOCK}\r?\n(?:user[ \t]+{_CLOCK})",
        lines=(
            _seconds("wall_time", rf"real[ \t]+(?P<value>{_CLOCK})"),
            _seconds("user_time", rf"user[ \t]+(?P<value>{_CLOCK})"),
            _seconds("system_time", rf"sys[ \t]+(?P<value>{_CLOCK})"),
        ),
    ),
    Format(
        name="gnu-time",
        title="GNU time -v",
        example="\tMaximum resident set size (kbytes): 1780",
        sniff=r"^[ \t]*Maximum resident set size \(kbytes\): \d+",
        lines=(
            _seconds("wall_time", rf"[ \t]*Elapsed \(wall clock\) time \(h:mm:ss or m:ss\): (?P<value>{_GNU_CLOCK})"),
            _seconds("user_time", r"[ \t]*User time \(seconds\): (?P<value>\d+\.\d+)"),
            _seconds("system_time", r"[ \t]*System time \(seconds\): (?P<value>\d+\.\d+)"),
            Line(
                "counters",
                r"[ \t]*Maximum resident set size \(kbytes\): (?P<value>\d+)",
                units={"value": "KiB"},
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
