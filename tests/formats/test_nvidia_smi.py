import math

import pytest
import written

from hpcbench.parse.content import read_bytes

NAME = "nvidia-smi"


def read(text):
    records, unread = written.read(NAME, text)
    return [(record.line, record.values) for record in records if record.table == "samples"], unread


def test_a_real_file_of_an_hour_is_read(corpus):
    content = read_bytes((corpus / "system/nvidia_smi/gpu_log_rtx4090.csv").read_bytes())
    samples = content.tables["samples"]
    assert (content.formats, content.unread, len(samples)) == ([NAME], 0, 2619)
    assert list(samples.line[[0, -1]]) == [2, 2620]
    assert samples["time"][0] == 1767454613.507
    assert (samples["device"][0], samples["utilization"][3], samples["power"][3]) == (
        "NVIDIA GeForce RTX 4090",
        0.34,
        71.06,
    )
    assert (samples["memory_used"][3], samples["memory_utilization"][0]) == (17304 * 2**20, 0.02)


def test_a_real_file_of_power_alone_is_read(corpus):
    content = read_bytes((corpus / "system/nvidia_smi/nvidia_smi_flame.csv").read_bytes())
    samples = content.tables["samples"]
    assert (content.formats, content.unread) == ([NAME], 0)
    assert list(samples["power"][:3]) == [22.89, 22.73, 22.73]
    assert not np_nan(samples["time"])


def np_nan(values):
    return any(math.isnan(value) for value in values)


def test_the_console_table_of_nvidia_smi_is_not_taken_for_samples(corpus):
    content = read_bytes((corpus / "training/modded_nanogpt/modded_flexattention.txt").read_bytes())
    assert NAME not in content.formats
    table = "| N/A   31C    P0             71W / 400W |  1024MiB / 81920MiB |     97%      Default |\n"
    assert read_bytes(table.encode()).formats == []


HEADER = "timestamp, index, name, utilization.gpu [%], memory.used [MiB], memory.total [MiB], power.draw [W], "
HEADER += "temperature.gpu, clocks.current.sm [MHz], pstate, fan.speed [%]\n"
ROW = "2024/05/01 12:00:00.123, 0, NVIDIA H100, 97 %, 1024 MiB, 81559 MiB, 412.55 W, 61, 1980 MHz, P0, [N/A]\n"
READ = {
    "time": 1714564800.123, "device": "NVIDIA H100 0", "utilization": 0.97, "memory_used": 1024 * 2**20,
    "memory_total": 81559 * 2**20, "power": 412.55, "temperature": 61, "clocks_current_sm": 1.98e9, "pstate": "P0",
}  # fmt: skip


def test_every_column_is_in_si_units_and_what_is_not_available_is_left_out():
    assert read_bytes((HEADER + ROW).encode()).formats == [NAME]
    assert read(HEADER + ROW) == ([(2, READ)], 0)


def test_without_units_the_header_tells_them():
    assert read(HEADER + without_units(ROW)) == ([(2, READ)], 0)


def test_several_gpus_have_a_device_each():
    text = HEADER + ROW + ROW.replace(", 0, ", ", 1, ")
    assert [row["device"] for _, row in read(text)[0]] == ["NVIDIA H100 0", "NVIDIA H100 1"]
    text = "uuid, power.draw [W]\nGPU-11, 5.00 W\nGPU-22, [Not Supported]\nGPU-33, 7.00 W\n"
    assert [(line, row["device"], row.get("power")) for line, row in read(text)[0]] == [
        (2, "GPU-11", 5),
        (4, "GPU-33", 7),
    ]


def test_lines_of_other_programs_between_samples_are_passed_over():
    text = f"start\n{HEADER}{ROW}step 3, loss 4, 5\n{ROW}"
    assert [line for line, _ in read(text)[0]] == [3, 5]


def without_units(text):
    for unit in (" %", " MiB", " W", " MHz"):
        text = text.replace(unit, "")
    return text


DAMAGED = [
    "2024/05/01 12:00:00.123, 0, NVIDIA H100, 97 %, 1024 MiB, 815\n",  # cut
    "2024/05/01 12:00:00.123, 0, NVIDIA H100, 97 %, 1024 MiB, 815",
    "2024/05/01 12:00:00.123, 0, NVIDIA H100, 97 %, 1024 MiB, 81559 MiB, 412.55 W\n",
    ROW[:30] + ROW,  # two writers at once
    ROW[:-40] + "\n",
    ROW.replace("97 %", "9x %"),
    ROW.replace("97 %", "9797 %"),
    ROW.replace("97 %", "97"),  # units are missing in one cell alone
    ROW.replace(" 97 %,", ""),
    ROW.replace("97 %", "P0"),
    ROW.replace(", P0", ", P02024"),
    ROW.replace("NVIDIA H100", "NVIDIA H1002024/05/01 12:00:00"),
    ROW.replace(", 0, ", ", 0x, "),
    ROW.replace("00.123", "00"),
    ROW.replace("00.123", "00.12397 %"),
    ROW[26:],
]


@pytest.mark.parametrize("row", DAMAGED)
@pytest.mark.parametrize("change", [str, without_units])
def test_a_damaged_line_is_counted_and_gives_nothing(row, change):
    if change(row) == change(ROW):
        return
    text = change(HEADER.replace(" [", "!").replace(" %", "").replace("!", " [") + ROW) + change(row)
    for data in (text, text.rstrip() + "\n" + change(ROW)):
        records, unread = written.read(NAME, data)
        assert [(each.table, each.line) for each in records] == [
            ("samples", line) for line in (2, 4) if line == 2 or data != text
        ]
        assert all(each.values == READ for each in records)
        assert unread == 1


def test_a_damaged_first_row_does_not_spoil_those_below_it():
    for change in (str, without_units):
        text = HEADER + change(ROW.replace("97 %", "9x %") + ROW)
        assert read(text) == ([(3, READ)], 1)
    cut = "timestamp, utilization.gpu [%]\n2024/05/01 12:00:00.123, 9\n2024/05/01 12:00:01.123, 97 %\n"
    assert [(line, row["utilization"]) for line, row in read(cut)[0]] == [(3, 0.97)]


def test_of_damaged_rows_alone_nothing_is_read():
    content = read_bytes((HEADER + ROW.replace("97 %", "9x %")).encode())
    assert (content.formats, content.tables, content.unread) == ([], {}, 1)


@pytest.mark.parametrize(
    "row", ["GPU-1, 9x %", "4, 97 %, 5.00 W", "GPU-1, 97 %, 5.0", "97 %, 5.00 W", "GPU-1, 97 %, 5 W, 1"]
)
def test_damaged_rows_without_a_time_are_counted(row):
    text = "uuid, utilization.gpu [%], power.draw [W]\nGPU-1, 97 %, 5.00 W\n"
    found, unread = read(f"{text}{row}\n")
    assert ([line for line, _ in found], unread) == ([2], 1)


def test_a_damaged_row_of_one_column_is_counted():
    assert read("power.draw [W]\n5.00 W\n5.x\nanother program's line\n\n6.00 W\n") == (
        [(2, {"power": 5}), (6, {"power": 6})],
        1,
    )


def test_a_second_header_of_other_columns_begins_a_table_of_its_own():
    text = "timestamp, utilization.gpu [%]\n2024/05/01 12:00:00.123, 97 %\n"
    text += "timestamp, memory.used [MiB]\n2024/05/01 12:00:01.123, 5 MiB\n"
    rows, unread = read(text)
    assert [(line, sorted(row)) for line, row in rows] == [(2, ["time", "utilization"]), (4, ["memory_used", "time"])]
    assert unread == 0


def test_a_number_that_ends_the_file_may_have_been_cut():
    assert read("timestamp, temperature.gpu\n2024/05/01 12:00:00.123, 6") == ([], 1)
    assert len(read("timestamp, temperature.gpu\n2024/05/01 12:00:00.123, 61\n")[0]) == 1


def test_without_a_header_only_what_is_certain_is_read():
    text = "2024/05/01 12:00:00.123, GPU-2f1c2d34, 97 %, 45 %, 71402 MiB, 412.55 W\n"
    content = read_bytes(text.encode())
    assert content.formats == [NAME]
    assert read(text) == ([(1, {"time": 1714564800.123, "device": "GPU-2f1c2d34", "power": 412.55})], 0)
    assert list(content.tables["events"]["message"]) == [
        "without a header nothing tells what 3 of the columns are; they were left out"
    ]


@pytest.mark.parametrize("row", [
    "2024/05/01 12:00:01.123, GPU-2f1c2d34, 97 %, 45 %, 714022024/05/01 12:00:02.123, GPU-2f1c2d34, 71402 MiB, 9.55 W",
    "2024/05/01 12:00:01.123, GPU-2f1c2d34, 9x %, 45 %, 71402 MiB, 412.55 W",
    "2024/05/01 12:00:01.123, GPU-2f1c2d34, 97 %, , 71402 MiB, 412.55 W",
    "2024/05/01 12:00:01.123, GPU-2f1c2d34, %, 45 %, 71402 MiB, 412.55 W",
])  # fmt: skip
def test_a_damaged_line_without_a_header_is_counted_once(row):
    text = "2024/05/01 12:00:00.123, GPU-2f1c2d34, 97 %, 45 %, 71402 MiB, 412.55 W\n"
    rows, unread = read(text + row + "\n")
    assert ([line for line, _ in rows], unread) == ([1], 1)


PLAIN = """2024/05/01 12:00:00.123, GPU-2f1c2d34, 97, 45, 71402, 412.55
2024/05/01 12:00:00.123, GPU-9f1c2d34, 98, 45, 71402, 402.55
2024/05/01 12:00:01.123, GPU-2f1c2d34, 97, 45, 71402, 411.05
2024/05/01 12:00:01.123, GPU-9f1c2d34, 98, 45, 71402, 402.25
"""


def test_without_header_and_units_the_power_alone_is_certain_where_it_varies():
    content = read_bytes(PLAIN.encode())
    assert (content.formats, content.unread) == ([NAME], 0)
    rows, _ = read(PLAIN)
    assert rows[0] == (1, {"time": 1714564800.123, "device": "GPU-2f1c2d34", "power": 412.55})
    assert [row["power"] for _, row in rows] == [412.55, 402.55, 411.05, 402.25]
    assert list(content.tables["events"]["message"]) == [
        "without a header nothing tells what 3 of the columns are; they were left out"
    ]
    named = PLAIN.replace("GPU-2f1c2d34", "NVIDIA A100-SXM4-40GB")
    assert [row["device"] for _, row in read(named)[0]] == ["NVIDIA A100-SXM4-40GB", "GPU-9f1c2d34"] * 2


@pytest.mark.parametrize("text", [
    PLAIN.replace("411.05", "412.55").replace("402.25", "402.55"),  # a limit, or the version of a driver
    PLAIN.replace("45,", "450.00,"),  # two of them
    PLAIN.replace("GPU-2f1c2d34, ", "").replace("GPU-9f1c2d34, ", ""),  # no GPU is named
    PLAIN.replace(".55", "").replace(".05", "").replace(".25", ""),
    PLAIN.replace("/", "-"),  # another program's time
    PLAIN.splitlines()[0] + "\n",
], ids=range(6))  # fmt: skip
def test_without_header_and_units_nothing_else_is_guessed(text):
    for names in (None, [NAME]):
        content = read_bytes(text.encode(), names)
        assert (content.formats, content.tables) == ([], {})


@pytest.mark.parametrize("text", [
    "nvidia-smi --query-gpu=timestamp,power.draw,utilization.gpu --format=csv\n",
    "power.draw, utilization.gpu are what to ask for\n",
    "utilization.gpu [%], memory.used [MiB]\n",
    "it took 412.55 W and 71402 MiB\n",
])  # fmt: skip
def test_prose_gives_nothing(text):
    content = read_bytes(text.encode())
    assert (content.formats, content.evidence) == ([], [])
