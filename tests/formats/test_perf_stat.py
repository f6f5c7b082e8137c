import math

import pytest
import written

from hpcbench.parse.content import read_bytes


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
    ("    18\N{RIGHT SINGLE QUOTATION MARK}003.70 msec task-clock", 18.0037, "s"),  # in Switzerland
    ("         18 003,70 msec task-clock", 18.0037, "s"),
    ("         1 101 234      cycles", 1101234, ""),
    ("         1 101 234      cycles                #    3.1 GHz  (83.33%)", 1101234, ""),
    ("CPU0         1 101 234      cycles", 1101234, ""),
    ("S0-D0-C1           1         1 101 234      cycles", 1101234, ""),
    ("     1\N{NARROW NO-BREAK SPACE}101\N{NARROW NO-BREAK SPACE}234      cycles", 1101234, ""),
    ("     1\N{RIGHT SINGLE QUOTATION MARK}101\N{RIGHT SINGLE QUOTATION MARK}234      cycles", 1101234, ""),
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


@pytest.mark.parametrize("line", [
    "  1,234 a line (that) has four words",
    "  12 34      cycles",  # no thousands
    "  1 2345     cycles",
    "  1 101 234 567,8    cycles",
    "  1\N{RIGHT SINGLE QUOTATION MARK}234 many cycles",
])  # fmt: skip
def test_a_line_that_looks_like_a_counter_and_is_none_is_counted(line):
    assert read(block(line)) == ({}, 1)


WHOLE = block(
    "     18,003.70 msec task-clock                #    1.000 CPUs utilized",
    "         1,234      cycles",
    "",
    "   18.005087828 seconds time elapsed",
    "    0.000000000 seconds sys",
)
TIME = "#           time             counts unit events\n     0.100187950              1,234      cycles\n"


@pytest.mark.parametrize("text", [WHOLE, TIME], ids=["block", "intervals"])
def test_of_a_text_that_was_cut_nothing_is_read_that_may_not_be_whole(text):
    whole = read(text)[0]
    for at in range(len(text)):
        found, unread = read(text[:at])
        assert found.items() <= whole.items()
        assert unread == 0 or text[at - 1] != "\n"


@pytest.mark.parametrize(("end", "names"), [
    ("  18.005087828 seconds time elapsed", ["wall_time"]),
    ("  0.000000000 seconds sys", ["system_time"]),
    ("  12 cycles  #", ["cycles"]),
    ("  12 cycles", []),
    ("  12 cycles  ", []),
])  # fmt: skip
def test_a_last_line_without_a_line_break_is_read_where_it_is_whole_for_certain(end, names):
    found, unread = read(block() + end)
    assert (list(found), unread) == (names, not names)


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


def rows(data, name="perf-stat"):
    records, unread = written.read(name, data)
    assert unread == 0
    return [(record.line, record.values) for record in records]


def test_the_runs_of_a_file_are_told_apart(corpus):
    several = rows((corpus / "system/perf_stat/perf_stat_two_sum.txt").read_bytes())
    assert [row["block"] for _, row in several if row["name"] == "wall_time"] == [1, 2, 3]
    one = rows((corpus / "system/perf_stat/perf_stat_598APE.txt").read_bytes())
    assert all("block" not in row for _, row in one)


def test_repeated_runs_give_the_spread_that_was_printed():
    text = block(
        "              0.64 msec task-clock                       #    0.003 CPUs utilized            ( +- 24.40% )",
        "                 1      context-switches                 #    1.062 K/sec                  ",
        "   <not counted>      cycles",
        "",
        "          0,251776 +- 0,000258 seconds time elapsed  ( +-  0,10% )",
    )
    assert rows(text) == [
        (4, {"name": "task-clock", "value": 0.00064, "unit": "s", "relative_std": 0.2440}),
        (5, {"name": "context-switches", "value": 1, "unit": ""}),
        (6, {"name": "cycles", "unit": ""}),
        (8, {"name": "wall_time", "value": 0.251776, "unit": "s", "relative_std": 0.0010}),
    ]


def test_intervals_have_their_time():
    text = "#           time             counts unit events\n"
    text += "     0.100187950               0.62 msec task-clock         #    0.006 CPUs utilized          \n"
    text += "     0.100187950    <not supported>      cycles             \n"
    text += "     0.200539894              1,234      faults\n"
    assert rows(text) == [
        (2, {"name": "task-clock", "value": 0.00062, "unit": "s", "elapsed": 0.100187950}),
        (3, {"name": "cycles", "unit": "", "elapsed": 0.100187950}),
        (4, {"name": "faults", "value": 1234, "unit": "", "elapsed": 0.200539894}),
    ]


def test_counters_of_one_cpu_or_core_name_it():
    text = block(
        "CPU0            251.80 msec task-clock         #    1.000 CPUs utilized",
        "S0-D0-C1           1             251.76 msec task-clock",
    )
    assert [row["device"] for _, row in rows(text)] == ["CPU0", "S0-D0-C1"]
    assert [row["value"] for _, row in rows(text)] == [0.25180, 0.25176]


SEPARATED = "perf-stat-separated"


def test_a_real_file_of_separated_values_is_recognised_and_read(corpus):
    content = read_bytes((corpus / "sites/perf_stat_csv_local.txt").read_bytes())
    assert (content.formats, content.unread) == ([SEPARATED], 0)
    counters = content.tables["counters"]
    assert dict(zip(counters["name"], counters["value"], strict=True)) == pytest.approx(
        {
            "task-clock": 1.57123, "context-switches": 273, "cpu-migrations": 0, "page-faults": 890,
            "cycles": math.nan, "instructions": math.nan, "branches": math.nan, "branch-misses": math.nan,
        },
        nan_ok=True,
    )  # fmt: skip
    assert list(counters.line) == list(range(3, 11))


@pytest.mark.parametrize("mark", [",", ";", "|", ":", "\t"])
def test_any_separator_is_read(mark):
    line = "1571.23,msec,task-clock,1571234195,100.00,0.695,CPUs utilized\n".replace(",", mark)
    assert rows(line, SEPARATED) == [(1, {"name": "task-clock", "value": 1.57123, "unit": "s"})]


@pytest.mark.parametrize(("line", "row"), [
    ("0.83,msec,task-clock,11.44%,830710,100.00,0.003,CPUs utilized",
     {"name": "task-clock", "value": 0.00083, "unit": "s", "relative_std": 0.1144}),
    ("0,83;msec;task-clock;830710;100,00;0,003;CPUs utilized", {"name": "task-clock", "value": 0.00083, "unit": "s"}),
    ("0,83,msec,task-clock,830710,100,00,0,003,CPUs utilized", {"name": "task-clock", "value": 0.00083, "unit": "s"}),
    ("     0.100231236,12,,cycles:u,586184,33.30,1.706,K/sec",
     {"name": "cycles:u", "value": 12, "unit": "", "elapsed": 0.100231236}),
    ("CPU1,251.80,msec,cpu-clock,251800596,100.00,1.000,CPUs utilized",
     {"name": "cpu-clock", "value": 0.2518, "unit": "s", "device": "CPU1"}),
    ("S0-D0-C0,1,9,,page-faults,251727066,100.00,,",
     {"name": "page-faults", "value": 9, "unit": "", "device": "S0-D0-C0"}),
    ("<not counted>,msec,task-clock,0,100.00,,", {"name": "task-clock", "unit": "s"}),
])  # fmt: skip
def test_separated_values_of_each_option(line, row):
    assert rows(line, SEPARATED) == [(1, row)]


def test_a_file_that_perf_wrote_may_have_any_event():
    text = "# started on Sat Nov 21 01:19:15 2026\n\n61.83,Joules,power/energy-pkg/,1571234195,100.00,,\n"
    text += "7,,a/x=1,y/,5,100.00\n"
    assert rows(text, SEPARATED) == [
        (3, {"name": "power/energy-pkg/", "value": 61.83, "unit": "J"}),
        (4, {"name": "a/x=1,y/", "value": 7, "unit": ""}),
    ]


@pytest.mark.parametrize("line", [
    "1571.23,msec,task-clock,15712",
    "1571.23,msec,task-cl,task-clock",
    "273,,context-switches,1571234195,100.",
    "273,,context-switches,1571234195,100.0",
])  # fmt: skip
def test_a_separated_line_that_was_cut_is_counted(line):
    assert written.read(SEPARATED, line) == ([], 1)


@pytest.mark.parametrize("line", ["it took 93,026,790,157 cycles", "name,cycles,instructions", "12, 13 branches", ""])
def test_words_of_counters_alone_are_no_separated_values(line):
    assert written.read(SEPARATED, line) == ([], 0)


JSON = (
    '{"interval" : 0.100170439, "cpu" : "1", "counter-value" : "0.953559", "unit" : "msec", "event" : "task-clock", '
    '"variance" : 3.93, "event-runtime" : 953559, "pcnt-running" : 100.00, "metric-value" : 0.0, "metric-unit" : ""}\n'
    '{"counter-value" : "12,500000", "unit" : "", "event" : "cycles", "event-runtime" : 0, "pcnt-running" : 100.00}\n'
    '{"counter-value" : "<not supported>", "unit" : "", "event" : "branches", "event-runtime" : 0}\n'
)


def test_json_lines_are_recognised_and_read():
    assert read_bytes(JSON.encode()).formats == ["perf-stat-json"]
    assert rows(JSON, "perf-stat-json") == [
        (1, {"name": "task-clock", "value": 0.000953559, "unit": "s", "relative_std": 0.0393, "elapsed": 0.100170439,
             "device": "CPU1"}),
        (2, {"name": "cycles", "value": 12.5, "unit": ""}),
        (3, {"name": "branches", "unit": ""}),
    ]  # fmt: skip


@pytest.mark.parametrize("line", [JSON[:60], '{"counter-value": 5, "event": "x"}', "[" * 100_000 + '"counter-value"'])
def test_json_that_is_damaged_is_counted(line):
    assert written.read("perf-stat-json", line) == ([], 1)
