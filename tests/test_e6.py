"""The reference experiment E6: GPT-2 124M trained on a CPU by llm.c, over threads and with AVX.

Logs in the program's exact format, carrying the published step times, must give the published means, ratios, losses and
counters back (`shared/facts/reference-experiments.md`).
"""

import json
import re

import pandas as pd
import pytest
import written

import hpcbench
from hpcbench.analyse.summary import compare

STEPS = (0, 1, 2, 3, 4, 5, 10, 20, 30, 40)
STEP_TIMES = {  # ms
    8: (3896.70, 2915.41, 2990.39, 3046.20, 3204.75, 3554.02, 3215.70, 3673.17, 3270.47, 3585.95),
    4: (4698.63, 3895.10, 3876.27, 3942.91, 4001.90, 3958.23, 3831.97, 3916.89, 3936.57, 3799.79),
    2: (7228.34, 6373.63, 6194.58, 6146.60, 6361.35, 6354.29, 6479.13, 7590.05, 6366.67, 6247.21),
    1: (13199.73, 12088.12, 12511.87, 11633.46, 14561.65, 12558.19, 12874.17, 11143.64, 11098.38, 10981.01),
    "avx": (3615.54, 2860.43, 2882.21, 2786.05, 2843.50, 2916.13, 2957.00, 3187.12, 3008.11, 3130.84),
}
VALIDATION = {0: 5.325522, 10: 4.416494, 20: 4.329332, 30: 4.300248, 40: 4.291717}
PERF = """# started on Fri Nov 20 10:00:00 2026


 Performance counter stats for './train_gpt2':

        708,147.03 msec task-clock                       #    1.000 CPUs utilized
            13,372      context-switches                 #   18.883 /sec
               297      cpu-migrations                   #    0.419 /sec
           873,210      page-faults                      #    1.233 K/sec
 2,828,715,460,760      cycles                           #    3.995 GHz
 3,450,675,515,172      instructions                     #    1.22  insn per cycle
   459,440,125,539      branches                         #  648.792 M/sec
     3,699,080,215      branch-misses                    #    0.81% of all branches

     708.374812244 seconds time elapsed

     706.835405000 seconds user
       1.274672000 seconds sys


"""
MEANS = {8: "3.273", 4: "3.907", 2: "6.457", 1: "12.161", "avx": "2.952"}  # s, without step 0
SPEEDUPS = {1: "baseline", 2: "1.88×", 4: "3.11×", 8: "3.72×"}
COUNTERS = [
    ["task-clock", "708.14703 s"],
    ["context-switches", "13,372"],
    ["cpu-migrations", "297"],
    ["page-faults", "873,210"],
    ["cycles", "2,828,715,460,760"],
    ["instructions", "3,450,675,515,172"],
    ["branches", "459,440,125,539"],
    ["branch-misses", "3,699,080,215"],
    ["wall time", "708.374812244 s"],
    ["CPU time, user", "706.835405 s"],
    ["CPU time, system", "1.274672 s"],
]


@pytest.fixture(params=["a folder a case", "files side by side", "perf in the log itself"])
def logs(request, tmp_path):
    """The logs of E6, kept in the ways in which people keep them."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for threads, times in STEP_TIMES.items():
        name = threads if threads == "avx" else f"threads{threads}"
        log = written.llmc(dict(zip(STEPS, times, strict=True)), VALIDATION)
        if request.param == "a folder a case":
            (folder / name).mkdir()
            (folder / name / "train_gpt2.log").write_text(log)
        else:
            (folder / f"{name}.log").write_text(log + (PERF if threads == 1 and "perf" in request.param else ""))
    if request.param == "a folder a case":
        (folder / "threads1" / "perf.txt").write_text(PERF)
    elif request.param == "files side by side":
        (folder / "threads1.perf.txt").write_text(PERF)
    return folder


def table(text, first):
    """Return the rows of the Markdown table whose first heading is `first`, as heading → cell."""
    blocks = [block.splitlines() for block in re.split(r"\n\n+", text) if block.startswith("|")]
    for head, _, *body in blocks:
        headings, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in (head, *body))
        if headings[0] == first:
            return [dict(zip(headings, row, strict=True)) for row in rows]
    raise AssertionError(f"no table begins with {first}")


LABEL = r"threads(?P<threads>\d+)|(?P<build>avx)"


def test_the_comparison_gives_the_means_and_speed_ups_of_e6(logs):
    [comparison] = compare(hpcbench.parse(logs, label=LABEL))
    rows = {row.point["threads"] or row.point["build"]: row for row in comparison.rows}
    assert {key: f"{row.metrics['step_time'].mean:.3f}" for key, row in rows.items()} == MEANS
    assert {key: row.metrics["step_time"].steps for key, row in rows.items()} == dict.fromkeys(MEANS, 9)
    assert {key: f"{rows[key].ratio.speedup:.2f}×" for key in (2, 4, 8)} == {key: SPEEDUPS[key] for key in (2, 4, 8)}
    assert rows["avx"].ratio is None  # nothing else is the same but the number of threads
    assert comparison.warmup == (0,)


def test_the_report_gives_e6(logs, tmp_path):
    file = hpcbench.report(hpcbench.parse(logs, label=LABEL), tmp_path / "report", {"threads": "1"})
    text = file.read_text()
    found = {row["build"] if row["threads"] == "–" else int(row["threads"]): row for row in table(text, "build")}
    assert {key: row["step time (s)"] for key, row in found.items()} == MEANS
    assert {key: found[key]["speed-up"] for key in SPEEDUPS} == SPEEDUPS
    assert {key: found[key]["efficiency"] for key in SPEEDUPS} == {1: "100%", 2: "94%", 4: "78%", 8: "46%"}
    assert "All 5 cases have identical validation losses, to the last digit logged." in text
    losses = table(text, "step")
    assert {int(row["step"]): row["validation loss, every case"] for row in losses} == {
        step: f"{loss:.6f}" for step, loss in VALIDATION.items()
    }
    counters = [list(row.values()) for row in table(text, "counter")]
    assert counters[: len(COUNTERS)] == COUNTERS
    assert counters[len(COUNTERS) :] == [
        ["CPUs utilised", "0.9997"],
        ["clock rate", "3.995 GHz"],
        ["instructions per cycle", "1.220"],
        ["branches missed", "0.8051 %"],
    ]
    assert "None: every case came to its end" in text


def test_the_data_and_tables_of_the_report_hold_e6_unrounded(logs, tmp_path):
    hpcbench.report(hpcbench.parse(logs, label=LABEL), tmp_path / "report")
    data = json.loads((tmp_path / "report" / "report.json").read_text())
    [section] = data["sections"]
    for row in section["rows"]:
        times = STEP_TIMES[row["point"]["threads"] or row["point"]["build"]][1:]
        assert row["metrics"]["step_time"]["mean"] == pytest.approx(sum(times) / 9000, rel=1e-12)
    [counters] = section["counters"]
    values = {name: each["values"] for name, each in counters["counters"].items()}
    assert values["instructions"] == [3_450_675_515_172]
    assert values["wall_time"] == [708.374812244]
    assert values["user_time"][0] + values["system_time"][0] == pytest.approx(708.110077, rel=1e-12)
    steps = pd.read_csv(tmp_path / "report" / "tables" / "steps.csv")
    assert len(steps) == 50
    assert sorted(steps["step_time"]) == sorted(float(f"{time}e-3") for times in STEP_TIMES.values() for time in times)
    assert list(steps[steps["warmup"]]["step"]) == [0] * 5
    comparison = pd.read_csv(tmp_path / "report" / "tables" / "comparison.csv").set_index("threads")
    assert [f"{comparison.loc[n, 'speedup']:.2f}×" for n in (2, 4, 8)] == ["1.88×", "3.11×", "3.72×"]


def test_the_threads_alone_need_no_word_from_anyone(tmp_path):
    """Without a label or a baseline: the files' names say what varies, and the others are against one thread."""
    for threads in (1, 2, 4, 8):
        (tmp_path / f"threads{threads}.log").write_text(
            written.llmc(dict(zip(STEPS, STEP_TIMES[threads], strict=True)), VALIDATION)
        )
    text = hpcbench.report(hpcbench.parse(tmp_path), tmp_path / "report").read_text()
    found = {int(row["threads"]): row for row in table(text, "threads")}
    assert {key: row["step time (s)"] for key, row in found.items()} == {key: MEANS[key] for key in (1, 2, 4, 8)}
    assert {key: row["speed-up"] for key, row in found.items()} == SPEEDUPS


def test_from_the_command_line(logs, tmp_path, monkeypatch):
    from click.testing import CliRunner

    from hpcbench.cli import main

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["report", "logs", "--label", LABEL, "--baseline", "threads=1"])
    assert (done.exit_code, done.output) == (0, "reports/logs/report.md\n")
    done = CliRunner().invoke(main, ["parse", "logs", "--label", LABEL, "--json"])
    [section] = json.loads(done.stdout)["sections"]
    assert {f"{row['metrics']['step_time']['mean']:.3f}" for row in section["rows"]} == set(MEANS.values())
    done = CliRunner().invoke(main, ["parse", "logs", "--label", LABEL])
    assert all(mean in done.output for mean in MEANS.values())
