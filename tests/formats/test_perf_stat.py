import math

import pytest
import written


def read(text):
    records, unread = written.read("perf-stat", text)
    assert {record.table for record in records} <= {"counters"}
    return {
        record.values["name"]: (record.values.get("value", math.nan), record.values["unit"]) for record in records
    }, unread


def block(*lines):
    return "\n Performance counter stats for './train_gpt2':\n\n" + "".join(f"{line}\n" for line in lines)


# file, how many counters, some of them in SI units to the last digit
REAL = [
    (
        "system/perf_stat/perf_stat_598APE.txt", 12,
        {"task-clock": (18.0037, "s"), "context-switches": (45, ""), "cycles": (93026790157, ""),
         "stalled-cycles-frontend": (174815404, ""), "instructions": (140122007951, ""),
         "branch-misses": (13608081, ""),
         "wall_time": (18.005087828, "s"), "user_time": (18.004352, "s"), "system_time": (0, "s")},
    ),
    (  # 3.642.649.330 is a whole number, 1.101,01 is not
        "system/perf_stat/perf_stat_tiledmatmul_commalocale_hybrid.txt", 26,
        {"cpu_atom/cycles/": (3642649330, ""), "cpu_core/cycles/": (4963414681, ""), "task-clock": (1.10101, "s"),
         "cpu-clock": (1.10098, "s"), "context-switches": (11, ""), "cpu_atom/LLC-load-misses/": (0, ""),
         "cpu_core/LLC-loads/": (15810416, ""),
         "wall_time": (1.101976138, "s"), "user_time": (1.022897, "s"),
         "system_time": (0.078992, "s")},
    ),
    (
        "sites/perf_stat_local.txt", 11,
        {"task-clock": (2.57547, "s"), "page-faults": (889, ""), "wall_time": (3.917918562, "s"),
         "user_time": (2.570467, "s"), "system_time": (0.00376, "s")},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "count", "expected"), REAL, ids=[each[0] for each in REAL])
def test_real_counters_are_read_to_the_digit(corpus, file, count, expected):
    data = (corpus / file).read_bytes()
    found, unread = read(data)
    assert (len(found), unread) == (count, 0)
    assert {name: found[name] for name in expected} == expected


def test_counters_that_a_machine_lacks_are_unknown_not_zero(corpus):
    found, _ = read((corpus / "sites/perf_stat_local.txt").read_bytes())
    assert all(math.isnan(found[name][0]) for name in ("cycles", "instructions", "branches", "branch-misses"))


def test_three_runs_in_a_file_are_read_one_after_the_other(corpus):
    records, unread = written.read("perf-stat", (corpus / "system/perf_stat/perf_stat_two_sum.txt").read_bytes())
    walls = [record.values.get("value", math.nan) for record in records if record.values["name"] == "wall_time"]
    instructions = [
        record.values.get("value", math.nan) for record in records if record.values["name"] == "instructions"
    ]
    assert (len(records), unread) == (48, 0)
    assert (walls[0], walls[2]) == (60.248690210, 8.557783540)
    assert instructions == [374205673499, 157923601609, 40803747059]


def test_a_record_names_its_line(corpus):
    file = corpus / "system/perf_stat/perf_stat_598APE.txt"
    records, _ = written.read("perf-stat", file.read_bytes())
    lines = file.read_text().split("\n")
    names = {"wall_time": "time elapsed", "user_time": "user", "system_time": "sys"}
    assert all(names.get(each.values["name"], each.values["name"]) in lines[each.line - 1] for each in records)


# line, value, unit: what each way of writing a number stands for
NUMBERS = [
    ("         18,003.70 msec task-clock", 18.0037, "s"),
    ("         18.003,70 msec task-clock", 18.0037, "s"),
    ("         18'003.70 msec task-clock", 18.0037, "s"),
    ("    18\N{NO-BREAK SPACE}003,70 msec task-clock", 18.0037, "s"),
    ("    18\N{NARROW NO-BREAK SPACE}003,70 msec task-clock", 18.0037, "s"),
    ("          18003.70 msec task-clock:u       #    1.000 CPUs utilized", 18.0037, "s"),
    ("              0.01 msec task-clock", 1e-5, "s"),
    ("     3,642,649,330      cycles:u", 3642649330, ""),
    ("     3.642.649.330      cycles", 3642649330, ""),
    ("               123      cycles", 123, ""),
    ("             1,234      cycles", 1234, ""),
    ("      12,34,56,789      cycles", 123456789, ""),  # in India
    ("             61.83 Joules power/energy-pkg/", 61.83, "J"),
    ("              2.50 MiB  uncore_imc/data_reads/", 2.5 * 2**20, "B"),
    ("    93,026,790,157      cycles                #    5.167 GHz        ( +-  0.10% )  (83.33%)", 93026790157, ""),
]


@pytest.mark.parametrize(("line", "value", "unit"), NUMBERS, ids=[each[0].strip() for each in NUMBERS])
def test_a_number_reads_the_same_in_every_locale(line, value, unit):
    found, unread = read(block(line))  # no elapsed time: nothing else in the text says what its marks mean
    assert list(found.values()) == [(value, unit)]
    assert unread == 0


def test_repeated_runs_give_their_mean_elapsed_time():
    found, unread = read(block("           10.0421 +- 0.0123 seconds time elapsed  ( +-  0.12% )"))
    assert (found, unread) == ({"wall_time": (10.0421, "s")}, 0)


def test_a_line_that_looks_like_a_counter_and_is_none_is_counted():
    assert read(block("  1,234 a line (that) has four words")) == ({}, 1)


@pytest.mark.parametrize("line", ["   .,., seconds user", "   1.2.3,4 seconds sys", "   ,, msec task-clock", "   1 \0"])
def test_nonsense_in_a_block_is_no_number(line):
    assert read(block(line))[0] == {}


def test_what_another_program_prints_after_the_block_is_not_read():
    text = block("  10 cycles", "", "  1.5 seconds time elapsed") + "done\n   12 apples\n   3 seconds user\n"
    assert read(text) == ({"cycles": (10, ""), "wall_time": (1.5, "s")}, 0)


def test_indented_lines_outside_a_block_are_not_read():
    assert read("   12 apples\n   1.5 seconds user\n") == ({}, 0)


def test_windows_line_endings_are_read():
    assert read(block("  10 cycles", "  1.5 seconds time elapsed").replace("\n", "\r\n")) == (
        {"cycles": (10, ""), "wall_time": (1.5, "s")},
        0,
    )
