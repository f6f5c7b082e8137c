"""What `time` prints: that of bash, POSIX shells, zsh and csh, and the programs of GNU and macOS."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hpcbench.formats import Block, Each, Format, Line, Reading, Record, duration

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


_ONE_LINE = {  # a few words that each such line holds, and all that it holds
    "zsh": re.compile(
        rb"(?:^|[ \t])(?P<user_time>\d{1,12}[.,]\d\d)s user (?P<system_time>\d{1,12}[.,]\d\d)s system \d{1,9}% cpu "
        rb"(?P<wall_time>(?:\d{1,9}:){0,2}\d{1,12}[.,]\d\d\d?) total[ \t]*$"
    ),
    "gnu": re.compile(
        rb"(?P<user_time>\d{1,12}\.\d\d)user (?P<system_time>\d{1,12}\.\d\d)system "
        rb"(?P<wall_time>(?:\d{1,9}:){1,2}\d\d(?:\.\d\d)?)elapsed [\d?]{1,9}%CPU "
        rb"\(\d{1,12}avgtext\+\d{1,12}avgdata (?P<max_memory>\d{1,15})maxresident\)k"
    ),
    "csh": re.compile(
        rb"^(?P<user_time>\d{1,12}\.\d{1,3})u (?P<system_time>\d{1,12}\.\d{1,3})s "
        rb"(?P<wall_time>(?:\d{1,9}:){1,2}\d\d(?:\.\d\d?)?) \d{1,9}\.\d%[ \t]\d{1,9}\+\d{1,9}k \d{1,12}\+\d{1,12}io "
        rb"\d{1,12}pf\+\d{1,9}w"
    ),
    "bsd": re.compile(
        rb"^[ \t]+(?P<wall_time>\d{1,12}[.,]\d\d) real[ \t]{1,40}(?P<user_time>\d{1,12}[.,]\d\d) user"
        rb"[ \t]{1,40}(?P<system_time>\d{1,12}[.,]\d\d) sys[ \t]*$"
    ),
}


def _one_line(shell: str, begins: bytes) -> Callable[[bytes], list[tuple[str, dict[str, Any]]] | None]:
    """Make a reader of lines that hold several times; one with the words of its beginning alone was cut."""
    pattern = _ONE_LINE[shell]

    def read(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
        match = pattern.search(line[-4000:].rstrip())  # a command of any length may stand before
        if match is None:
            return None if re.search(begins, line[-4000:]) else []
        rows = []
        for name, text in match.groupdict().items():
            memory = name == "max_memory"
            value = float(text) * 1024 if memory else duration(text)
            rows.append(("counters", {"name": name, "value": value, "unit": "B" if memory else "s"}))
        return rows

    return read


def _faults(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read the second line of GNU time: ``0inputs+8outputs (0major+97minor)pagefaults 0swaps``."""
    match = re.search(rb"\d{1,15}inputs\+\d{1,15}outputs \((\d{1,15})major\+(\d{1,15})minor\)pagefaults", line)
    if match is None:
        return None
    names = ("major_page_faults", "minor_page_faults")
    return [
        ("counters", {"name": name, "value": int(text), "unit": ""})
        for name, text in zip(names, match.groups(), strict=True)
    ]


def _peak(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read the peak memory of macOS, in bytes: whole pages of 4 or 16 KiB. FreeBSD prints KiB in the same words."""
    match = re.fullmatch(rb"[ \t]+(\d{1,18})  maximum resident set size[ \t]*", line)
    if match is None:
        return None
    value = int(match[1])
    return [("counters", {"name": "max_memory", "value": value, "unit": "B"})] if value % 4096 == 0 else []


def _bsd(name: str, words: str, unit: str = "") -> Line:
    return Line("counters", rf"^[ \t]+<value:int>  {words}$", constants={"name": name, "unit": unit}, weak=True)


FORMATS = (
    Format(
        name="time",
        kind="system",
        title="time of bash and POSIX shells",
        example="real\t0m4.442s",
        parts=(Block("real", _shell, size=200),),
    ),
    Format(
        name="gnu-time",
        kind="system",
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
    Format(
        name="gnu-time-default",
        kind="system",
        title="GNU time, the two lines that it prints unless told otherwise",
        example="0.00user 0.01system 0:00.10elapsed 95%CPU (0avgtext+0avgdata 1780maxresident)k",
        parts=(
            Each("%CPU (", _one_line("gnu", rb"\dsystem [\d:.]*elapsed ")),
            Each("pagefaults ", _faults, weak=True),
        ),
        untried="written from what GNU time 1.9 prints",
    ),
    Format(
        name="zsh-time",
        kind="system",
        title="time of zsh",
        example="./train_gpt2  0.52s user 0.08s system 58% cpu 1.030 total",
        parts=(Each("% cpu ", _one_line("zsh", rb"\ds user [\d.,]+s system ")),),
    ),
    Format(
        name="csh-time",
        kind="system",
        title="time of csh and tcsh",
        example="0.520u 0.080s 0:01.03 58.2%\t0+0k 0+8io 0pf+0w",
        parts=(Each("pf+", _one_line("csh", rb"^[\d.]+u [\d.]+s [\d:.]+ ")),),
        untried="written from the manual of tcsh: %Uu %Ss %E %P %X+%Dk %I+%Oio %Fpf+%Ww",
    ),
    Format(
        name="bsd-time",
        kind="system",
        title="time of macOS and the BSDs, also with -l",
        example="        0.08 real         0.07 user         0.00 sys",
        parts=(
            Each(" real ", _one_line("bsd", rb"^[ \t]+\d+\.\d\d real +\d+\.\d\d user")),
            Each("maximum resident set size", _peak, weak=True),
            _bsd("minor_page_faults", "page reclaims"),
            _bsd("major_page_faults", "page faults"),
            _bsd("voluntary_context_switches", "voluntary context switches"),
            _bsd("involuntary_context_switches", "involuntary context switches"),
            _bsd("instructions", "instructions retired"),
            _bsd("cycles", "cycles elapsed"),
            _bsd("memory_footprint", "peak memory footprint", "B"),
        ),
    ),
)
