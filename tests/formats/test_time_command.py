import pytest
import written

from hpcbench.parse.content import read_bytes

BASH, GNU, DEFAULT, ZSH, CSH, BSD = "time", "gnu-time", "gnu-time-default", "zsh-time", "csh-time", "bsd-time"


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
    (
        "system/macos_time_l_output.txt", BSD,
        {"wall_time": 0.08, "user_time": 0.07, "system_time": 0, "max_memory": 40075264, "minor_page_faults": 5777,
         "major_page_faults": 100, "voluntary_context_switches": 3, "involuntary_context_switches": 22,
         "instructions": 983440026, "cycles": 268138965, "memory_footprint": 32637288},
    ),
    (
        "inference/pnookala_metis_curl_time.md", ZSH,
        {"wall_time": 1.030, "user_time": 0.02, "system_time": 0.01},
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


@pytest.mark.parametrize(("name", "line", "expected"), [
    (ZSH, "./run --x 3  0.52s user 0.08s system 58% cpu 1.030 total",
     {"wall_time": 1.030, "user_time": 0.52, "system_time": 0.08}),
    (ZSH, "make  110.52s user 0.08s system 58% cpu 1:02.33 total",
     {"wall_time": 62.33, "user_time": 110.52, "system_time": 0.08}),
    (ZSH, "make  7210.00s user 1.00s system 99% cpu 2:01:02.33 total \r",
     {"wall_time": 7262.33, "user_time": 7210, "system_time": 1}),
    (ZSH, "make  0,52s user 0,08s system 58% cpu 1,030 total",
     {"wall_time": 1.030, "user_time": 0.52, "system_time": 0.08}),
    (DEFAULT, "0.00user 0.01system 0:00.10elapsed 95%CPU (0avgtext+0avgdata 1780maxresident)k",
     {"wall_time": 0.1, "user_time": 0, "system_time": 0.01, "max_memory": 1780 * 1024}),
    (DEFAULT, "9.50user 0.25system 1:01:07elapsed ?%CPU (0avgtext+0avgdata 1780maxresident)k\n"
     "0inputs+8outputs (3major+97minor)pagefaults 0swaps",
     {"wall_time": 3667, "user_time": 9.5, "system_time": 0.25, "max_memory": 1780 * 1024, "major_page_faults": 3,
      "minor_page_faults": 97}),
    (CSH, "0.520u 0.080s 0:01.03 58.2%\t0+0k 0+8io 0pf+0w",
     {"wall_time": 1.03, "user_time": 0.52, "system_time": 0.08}),
    (BSD, "        0,08 real         0,07 user         0,01 sys",
     {"wall_time": 0.08, "user_time": 0.07, "system_time": 0.01}),
])  # fmt: skip
def test_lines_that_hold_all_times(name, line, expected):
    assert read_bytes(line.encode()).formats == [name]
    assert read(name, line) == (pytest.approx(expected), 0)


@pytest.mark.parametrize(("name", "line"), [
    (ZSH, "make  0.52s user 0.08s system 58% cpu 1.0"),
    (ZSH, "make  0.52s user 0.08s system 58% cpu 1.030 to"),
    (DEFAULT, "0.00user 0.01system 0:00.10elapsed 95%CPU (0avgtext+0avgdata 178"),
    (CSH, "0.520u 0.080s 0:01.03 58.2%\t0+0k 0+8io 0pf+"),
    (BSD, "        0.08 real         0.07 user         0.0"),
])  # fmt: skip
def test_a_line_of_all_times_that_was_cut_is_counted(name, line):
    assert read(name, line) == ({}, 1)


@pytest.mark.parametrize("text", [
    "58% cpu was used", "  12 real numbers", "a 5% CPU (idle) share", "the time was 0.52s user and 58% cpu for 1 total",
])  # fmt: skip
def test_prose_about_times_gives_nothing(text):
    content = read_bytes(text.encode())
    assert (content.formats, content.tables) == ([], {})


def test_peak_memory_that_cannot_be_in_bytes_is_left_out():  # FreeBSD's, in KiB
    text = "        0.08 real         0.07 user         0.00 sys\n      2190  maximum resident set size\n"
    assert "max_memory" not in read(BSD, text)[0]
