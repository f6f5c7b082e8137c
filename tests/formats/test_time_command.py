import pytest
import written

from hpcbench.parse.content import read_bytes

BASH, GNU = "time", "gnu-time"


def read(name, data):
    records, unread = written.read(name, data)
    return {record.values["name"]: record.values["value"] for record in records}, unread


REAL = [
    ("sites/bash_time_local.txt", BASH, {"wall_time": 4.442, "user_time": 2.396, "system_time": 0.011}),
    ("sites/time_p_local.txt", BASH, {"wall_time": 0.2, "user_time": 0, "system_time": 0}),
    ("system/bash_time_clean.out", BASH, {"wall_time": 3.918, "user_time": 2.618, "system_time": 0.477}),
    (
        "failures/slurm_cuda_oom_with_bash_time.out", BASH,
        {"wall_time": 56.895, "user_time": 11.272, "system_time": 6.233},
    ),
    (
        "sites/gnu_time_v_local.txt", GNU,
        {"wall_time": 0.2, "user_time": 0, "system_time": 0, "max_memory": 1780 * 1024, "major_page_faults": 0,
         "minor_page_faults": 97, "voluntary_context_switches": 2, "involuntary_context_switches": 2, "exit_status": 0},
    ),
    (  # in the middle of a logbook in prose
        "excerpts/bloom_176B_chronicles.md", GNU,
        {"wall_time": 47 * 60 + 55.47, "user_time": 9864.93, "system_time": 6987, "max_memory": 65719976 * 1024,
         "major_page_faults": 0, "minor_page_faults": 17097777, "voluntary_context_switches": 1082873,
         "involuntary_context_switches": 526464, "exit_status": 0},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "name", "expected"), REAL, ids=[each[0] for each in REAL])
def test_real_times_are_read_in_seconds_and_bytes(corpus, file, name, expected):
    data = (corpus / file).read_bytes()
    assert read(name, data) == (expected, 0)


@pytest.mark.parametrize(("text", "seconds"), [
    ("0m4.442s", 4.442),
    ("19m22.641s", 1162.641),
    ("118m3.001s", 7083.001),
    ("2h1m0.500s", 7260.5),
    ("0m4,442s", 4.442),  # bash in a locale with a decimal comma
    ("708.37", 708.37),
])  # fmt: skip
def test_a_shell_writes_a_time_in_many_ways(text, seconds):
    assert read(BASH, f"real\t{text}\nuser\t0m0.001s\nsys\t0m0.001s\n")[0]["wall_time"] == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "seconds"), [("0:00.20", 0.2), ("1:07.33", 67.33), ("12:01:07", 43267)])
def test_gnu_time_writes_minutes_or_hours(text, seconds):
    line = f"\tElapsed (wall clock) time (h:mm:ss or m:ss): {text}\n"
    assert read(GNU, line)[0] == {"wall_time": pytest.approx(seconds)}


@pytest.mark.parametrize("text", ["real\t0m4.44", "real 4.4", "real\t0m4.442s ago", "realistic 4.44", "real\t"])
def test_a_damaged_or_other_line_gives_no_time(text):
    assert read(BASH, text) == ({}, 0)


def test_the_line_of_a_value_counts_the_blank_lines_before_it():
    records, _ = written.read(GNU, b"\n\n\n\tExit status: 3\n")
    assert [(record.line, record.values["value"]) for record in records] == [(4, 3)]


def test_macos_time_is_not_taken_for_gnu_time(corpus):  # its peak memory is in bytes
    assert read_bytes((corpus / "system/macos_time_l_output.txt").read_bytes()).formats != [GNU]
