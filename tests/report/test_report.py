import hashlib
import html
import json
import math
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import written

from hpcbench.analyse.summary import compare
from hpcbench.errors import HpcbenchError, RunError
from hpcbench.parse import parse
from hpcbench.report import figures, report, section
from hpcbench.report.markdown import code, escape, table
from hpcbench.report.view import axis_value, comparison_table, interval

TIMES = {
    1: [[9.0, 8.0, 8.2], [9.0, 8.1, 8.3]],
    2: [[5.0, 4.0, 4.4], [5.0, 4.2, 4.0]],
    4: [[4.0, 2.0, 2.2], [4.0, 2.1, 2.3]],
}


@pytest.fixture
def run(tmp_path):
    """A sweep over threads, each repeated, with its machine and command."""
    return written.sweep(
        tmp_path / "logs" / "demo",
        TIMES,
        title="A toy",
        description="Trains a toy.",
        command=["/usr/bin/hpcbench", "submit", "--threads", "1,2,4"],
        sweep="--threads 1,2,4 --repeat 2",
        machine={"host": "node1", "cpu": "A CPU", "cores": 8, "memory": 16 * 2**30, "gpus": []},
        software={"python": "3.11.7", "libraries": {"torch": "2.5"}, "environment": {"OMP_NUM_THREADS": "4"}},
        parameters={"threads": {"unit": ""}, "batch": {"unit": "sequences"}},
    )  # fmt: skip


def cells(line):
    """Split a row of a Markdown table as GitHub does, and undo the escapes that it undoes."""
    inner = re.split(r"(?<!\\)\|", line)[1:-1]
    return [html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", cell.strip())) for cell in inner]


def tables(text):
    """Return the tables of a Markdown text: rows of cells, the heading first."""
    found, rows = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append(cells(line))
        elif rows:
            assert {len(row) for row in rows} == {len(rows[0])}, "GitHub drops what is beyond the heading"
            assert all(re.fullmatch(r"-{3,}|-{2,}:", cell) for cell in rows[1])
            found.append([rows[0], *rows[2:]])
            rows = []
    return found


def digests(folder):
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_a_report_is_a_text_figures_tables_and_data(run, tmp_path):
    file = report(parse(run), tmp_path / "out")
    assert file == tmp_path / "out" / "report.md"
    assert sorted(digests(tmp_path / "out")) == [
        "figures/speedup-over-threads.png", "figures/speedup-over-threads.svg",
        "figures/step-time-over-steps.png", "figures/step-time-over-steps.svg",
        "figures/step_time-over-threads.png", "figures/step_time-over-threads.svg",
        "report.json", "report.md",
        "tables/cases.csv", "tables/comparison.csv", "tables/counters.csv", "tables/events.csv", "tables/sources.csv",
        "tables/steps.csv",
    ]  # fmt: skip


def test_the_text_tells_what_ran_where_and_what_came_of_it(run, tmp_path):
    text = report(parse(run), tmp_path / "out").read_text()
    assert text.startswith(
        "# A toy\n\nTrains a toy.\n\n"
        "Run **demo**, 2023-11-14 22:13:20 UTC, 6 cases: `hpcbench submit --threads 1,2,4`\n"
    )
    comparison, fixed, place, sources = tables(text)
    assert comparison == [
        ["threads", "runs", "step time (s)", "± in a run", "± repeats",
         "speed-up", "95 % interval", "slowdown", "efficiency"],
        ["1", "2", "8.150", "0.14", "0.071", "baseline", "–", "baseline", "100%"],
        ["2", "2", "4.150", "0.22", "0.071", "1.96×", "1.81 to 2.14", "0.51×", "98%"],
        ["4", "2", "2.150", "0.14", "0.071", "3.79×", "3.07 to 4.91", "0.26×", "95%"],
    ]  # fmt: skip
    assert fixed == [["parameter", "value"], ["batch (sequences)", "4"]]
    assert ["processor", "A CPU (8 cores, ? processors usable)"] in place
    assert ["memory", "16.00 GiB"] in place
    assert ["environment", "OMP_NUM_THREADS=4"] in place
    assert "Sweep: `--threads 1,2,4 --repeat 2`" in text
    assert "Warm-up, in no mean: step 0." in text
    assert "None: every case came to its end, and no log tells of a failure of a program." in text
    assert len(sources) == 1 + 12
    assert all(hashlib.sha256(Path(row[0]).read_bytes()).hexdigest().startswith(row[4]) for row in sources[1:])


def test_every_figure_that_the_text_shows_is_there(run, tmp_path):
    text = report(parse(run), tmp_path / "out").read_text()
    links = re.findall(r"\]\((.*?)\)", text)
    assert len(links) == 6
    assert {link.removeprefix("figures/") for link in links} == {
        file.name for file in (tmp_path / "out" / "figures").iterdir()
    }


def test_figures_have_300_dots_per_inch_and_their_values(run, tmp_path):
    report(parse(run), tmp_path / "out")
    for file in (tmp_path / "out" / "figures").glob("*.png"):
        data = file.read_bytes()
        start = data.index(b"pHYs") + 4
        assert struct.unpack(">IIB", data[start : start + 9]) == (11811, 11811, 1)  # dots a metre
    svg = (tmp_path / "out" / "figures" / "step_time-over-threads.svg").read_text()
    assert [text for text in re.findall(r"<!-- (.*?) -->", svg) if "." in text] == ["8.15", "4.15", "2.15"]
    svg = (tmp_path / "out" / "figures" / "speedup-over-threads.svg").read_text()
    assert {"1.96×", "3.79×", "proportional"} <= set(re.findall(r"<!-- (.*?) -->", svg))


def test_the_data_hold_what_the_text_says_unrounded_with_its_files(run, tmp_path):
    report(parse(run, hashes=True), tmp_path / "out")
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["schema"] == "hpcbench/report/1"
    assert data["runs"]["demo"]["machine"]["host"] == "node1"
    [one] = data["sections"]
    assert (one["axes"], one["baseline"], one["warmup_steps"]) == (["threads"], {"threads": 1}, [0])
    assert one["metrics"] == {"step_time": {"label": "step time", "unit": "s", "better": "lower"}}
    row = one["rows"][2]
    spread = row["metrics"]["step_time"]
    assert (row["point"], row["completed"]) == ({"threads": 4}, 2)
    assert spread["repeats"] == pytest.approx([2.1, 2.2])
    assert spread["mean"] == pytest.approx(2.15)
    assert spread["std_over_repeats"] == pytest.approx(np.std([2.1, 2.2], ddof=1))
    assert [Path(source).relative_to(run).as_posix() for source in spread["sources"]] == [
        "4-1/stdout.log",
        "4-2/stdout.log",
    ]
    assert row["speedup"]["value"] == pytest.approx(8.15 / 2.15)
    assert row["speedup"]["efficiency"] == pytest.approx(8.15 / 2.15 / 4)
    assert one["rows"][0]["speedup"]["interval_95"] is None
    assert {source["sha256"] for source in data["sources"]} == {
        hashlib.sha256(file.read_bytes()).hexdigest()
        for name in ("stdout.log", "exit.json")
        for file in run.rglob(name)
    }


def test_the_tables_hold_every_row_with_its_file_and_line(run, tmp_path):
    report(parse(run), tmp_path / "out")
    steps = pd.read_csv(tmp_path / "out" / "tables" / "steps.csv")
    for step in steps.itertuples():
        assert json.loads(Path(step.source).read_text().splitlines()[step.line - 1])["step_time"] == step.step_time
    comparison = pd.read_csv(tmp_path / "out" / "tables" / "comparison.csv")
    assert list(comparison["threads"]) == [1, 2, 4]
    assert list(comparison["step_time_mean"]) == pytest.approx([8.15, 4.15, 2.15])
    assert list(comparison["cases"]) == [2, 2, 2]


def test_two_reports_of_the_same_logs_are_the_same_bytes(run, tmp_path):
    report(parse(run), tmp_path / "one")
    # in another process too: the order of a set there is another
    script = f"import hpcbench; hpcbench.report(hpcbench.parse({str(run)!r}), {str(tmp_path / 'two')!r})"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONHASHSEED": "7"})
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


# Where it is written.


def test_a_report_replaces_the_one_before(run, tmp_path):
    written.sweep(tmp_path / "logs" / "other", {1: [[9.0, 1.0]]})
    report(parse(run), tmp_path / "out")
    report(parse(tmp_path / "logs" / "other"), tmp_path / "out")
    assert not (tmp_path / "out" / "figures" / "speedup-over-threads.png").exists()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["runs"].keys() == {"other"}


@pytest.mark.parametrize("name", ["notes.md", ".git", "figures.zip", "figures/mine.txt", "tables/a/b.csv"])
def test_a_folder_with_other_files_is_left_alone(run, tmp_path, name):
    report(parse(run), tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    before = digests(tmp_path / "out")
    with pytest.raises(RunError, match=r"holds other files than a report \(.*\): name another folder with -o"):
        report(parse(run), tmp_path / "out")
    assert digests(tmp_path / "out") == before


def test_an_empty_folder_and_a_link_to_a_report_are_written_to(run, tmp_path):
    (tmp_path / "real").mkdir()
    report(parse(run), tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    report(parse(run), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "report.md").exists()


def test_the_current_folder_can_be_the_report(run, tmp_path, monkeypatch):
    report(parse(run), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    report(parse(run), ".")
    assert (tmp_path / "out" / "report.md").exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["logs", "out"]


@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300])
def test_where_nothing_can_be_written_nothing_is_left(run, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError) as error:
        report(parse(run), tmp_path / place)
    assert str(error.value).startswith("cannot write the report in ")
    assert "None" not in str(error.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "logs"]
    assert (tmp_path / "file").read_text() == "mine"


def test_where_there_is_no_log_there_is_no_report(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "README").write_text("nothing here")
    with pytest.raises(HpcbenchError, match="nothing to report"):
        report(parse(tmp_path / "logs"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# What it says when things went wrong.


def test_failures_are_told_with_the_line_that_says_why(tmp_path):
    folder = tmp_path / "r"
    written.case(folder / "a", written.records(*written.steps([9, 1])), parameters={"threads": 1})
    log = "fine\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
    written.case(folder / "b", log, {**written.FAILED, "status": 1}, parameters={"threads": 2})
    written.case(folder / "c", "", {**written.FAILED, "status": 3}, parameters={"threads": 4})
    text = report(parse(written.run(folder)), tmp_path / "out").read_text()
    [failures] = [each for each in tables(text) if each[0][0] == "case"]
    assert failures[1:] == [
        [
            "b",
            "out of memory",
            "exit status 1: " + log.splitlines()[1],
            f"{log.splitlines()[1]} ({folder}/b/stdout.log:2)",
        ],
        ["c", "failed", "exit status 3", ""],
    ]
    assert tables(text)[0][1:] == [
        ["1", "1", "1.000", "baseline", "baseline", "100%"],
        ["2", "0 of 1", "–", "–", "–", "–"],
        ["4", "0 of 1", "–", "–", "–", "–"],
    ]
    assert "Cases that did not complete are in no mean." in text


def test_a_failure_that_only_a_foreign_log_tells_of_is_told(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train.log").write_text(written.llmc([9, 1]) + "step 2: train loss nan (took 1.000000 ms)\n")
    text = report(parse(tmp_path / "logs"), tmp_path / "out").read_text()
    assert "the loss of step 2 is not a finite number" in text
    assert "None: every case" not in text


def test_where_the_baseline_has_no_case_the_text_says_so(tmp_path):
    folder = tmp_path / "r"
    for threads, ending in ((1, written.FAILED), (2, written.COMPLETED)):
        log = written.records(*written.steps([9.0, 1.0]))
        written.case(folder / str(threads), log, ending, parameters={"threads": threads}, baseline={"threads": 1})
    text = report(parse(written.run(folder)), tmp_path / "out").read_text()
    assert "There is no speed-up: no completed case of the baseline, threads 1, has this metric." in text
    assert "Speed-up is the ratio" not in text
    assert tables(text)[0][0] == ["threads", "runs", "step time (s)"]


ALL_BAD = {
    "all failed": [(written.FAILED, [9.0, 1.0])] * 3,
    "none ended": [(None, [])] * 3,
    "no steps": [(written.COMPLETED, [])] * 3,
    "not a number": [(written.COMPLETED, [math.nan, math.nan, math.nan])] * 3,
    "infinite": [(written.COMPLETED, [math.inf, math.inf, math.inf])] * 3,
    "no time at all": [(written.COMPLETED, [0.0, 0.0, 0.0])] * 3,
    "backwards": [(written.COMPLETED, [-1.0, -2.0, -3.0])] * 3,
    "one of each": [
        (written.COMPLETED, [9.0, 1.0, 1.0]),
        (written.COMPLETED, [9.0, math.inf, 0.0]),
        (written.FAILED, []),
    ],
    "far apart": [(written.COMPLETED, [1e-12, 1e-12, 1e-12]), (written.COMPLETED, [1e12, 1e12, 1e12]), (None, [])],
}


@pytest.mark.parametrize("outcome", ALL_BAD)
def test_a_report_can_be_written_whatever_came_of_the_cases(tmp_path, outcome):
    for index, (ending, times) in enumerate(ALL_BAD[outcome]):
        log = written.records(*written.steps(times))
        written.case(
            tmp_path / "r" / str(index), log, ending, parameters={"threads": 2**index}, baseline={"threads": 1}
        )
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert tables(text)
    json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)


def test_files_in_which_nothing_was_recognised_are_named(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train.log").write_text(written.llmc([9, 1]))
    for index in range(12):
        (tmp_path / "logs" / f"note{index:02d}.md").write_text("|")
    text = report(parse(tmp_path / "logs"), tmp_path / "out").read_text()
    assert "13 files, 1 of a known format, 2 records, 0 lines that could not be read." in text
    names = ", ".join(f"note{index:02d}.md" for index in range(10))
    assert f"Of no known format, or empty: {names} and 2 more." in text


def test_a_damaged_file_is_of_no_known_format_and_named_with_its_problem(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "train.log").write_text(written.llmc([9, 1]))
    (tmp_path / "logs" / "note.md").write_text("nothing here")
    (tmp_path / "logs" / "old.log.xz").write_bytes(b"\xfd7zXZ\x00" + b"x" * 100)
    (tmp_path / "logs" / "plot.png").write_bytes(b"\x89PNG" + b"x" * 100)
    text = report(parse(tmp_path / "logs"), tmp_path / "out").read_text()
    assert "4 files, 1 of a known format, 2 records" in text
    (line,) = [line for line in text.splitlines() if line.startswith("Of no known format")]
    assert line.startswith("Of no known format, or empty: old.log.xz (damaged: ")
    assert line.endswith("), note.md, plot.png.")
    assert [row[1] for row in tables(text)[-1]] == ["format", "llmc-cpu"]


@pytest.mark.parametrize("rate", [True, False])
def test_the_text_says_what_a_rate_is_where_there_is_one(tmp_path, rate):
    log = written.records(*written.steps([9, 1], **({"tokens_per_second": 64} if rate else {})))
    written.case(tmp_path / "r" / "a", log, headline=["step_time", "tokens_per_second"])
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert ("Rates are all the work of the steady steps over all their time." in text) == rate


def test_a_baseline_alone_is_no_figure(tmp_path):
    for threads, ending in ((1, written.COMPLETED), (2, written.FAILED)):
        log = written.records(*written.steps([9.0, 1.0]))
        written.case(tmp_path / "r" / str(threads), log, ending, parameters={"threads": threads})
    report(parse(written.run(tmp_path / "r")), tmp_path / "out")
    assert {file.stem for file in (tmp_path / "out" / "figures").iterdir()} == {"step-time-over-steps"}


@pytest.mark.parametrize(("losses", "cells", "figures_drawn"), [
    ([4.0, math.inf, math.nan], ["4.000", "inf", "–"], 0),  # one number is no figure
    ([4.0, math.inf, 5.0], ["4.000", "inf", "5.000"], 1),
])  # fmt: skip
def test_losses_that_are_no_numbers_are_in_the_table_and_not_in_the_figures(tmp_path, losses, cells, figures_drawn):
    for index, loss in enumerate(losses):
        log = written.records({"record": "eval", "task": "validation", "metric": "loss", "value": loss, "step": 1})
        for repeat in (1, 2):
            written.case(
                tmp_path / "r" / f"{index}-{repeat}", log,
                parameters={"threads": 2**index}, repeat=repeat, headline=["validation_loss"],
            )  # fmt: skip
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert [row[2] for row in tables(text)[0][1:]] == cells
    assert len(list((tmp_path / "out" / "figures").glob("*.svg"))) == figures_drawn


def test_two_benchmarks_and_foreign_logs_have_a_chapter_each(tmp_path):
    for name, headline in (("one", "step_time"), ("two", "wall_time")):
        for threads in (1, 2):
            log = written.records(*written.steps([9.0, 4.0 / threads]))
            written.case(
                tmp_path / "logs" / name / str(threads), log,
                benchmark=name, parameters={"threads": threads}, headline=[headline],
            )  # fmt: skip
        written.run(tmp_path / "logs" / name, benchmark=name, title=f"Benchmark {name}")
    (tmp_path / "logs" / "foreign").mkdir()
    (tmp_path / "logs" / "foreign" / "train.log").write_text(written.llmc([9, 1, 1]))
    text = report(parse(tmp_path / "logs"), tmp_path / "out").read_text()
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Benchmark one and Benchmark two and Training",
        "## Benchmark one", "### Results", "## Benchmark two", "### Results", "## Training", "### Results",
        "## What did not complete", "## What ran where", "## Where the numbers come from",
    ]  # fmt: skip
    comparisons = [each[0] for each in tables(text) if "runs" in each[0]]
    assert [next(cell for cell in row if "time" in cell) for row in comparisons] == [
        "step time (s)", "wall time (s)", "step time (ms)",
    ]  # fmt: skip
    assert {file.name.split("-")[0] for file in (tmp_path / "out" / "figures").iterdir()} == {"1", "2", "3"}


# What it says of sameness.


@pytest.mark.parametrize(("second", "sentence"), [
    ({0: 5.0, 10: 4.0}, "All 2 cases have identical validation losses, to the last digit logged."),
    ({0: 5.0, 10: 4.00001}, "have the same validation losses to rounding (largest relative difference 2.5e-06)."),
    ({0: 5.0, 10: 4.1}, "All 2 cases do NOT have the same validation losses (largest relative difference 2.4e-02)."),
    ({0: 5.0, 10: math.nan}, "do NOT have the same validation losses (at some step one of them is not a number)."),
    ({5: 4.5}, "All 2 cases cannot be compared: at no step do two of them have a validation loss."),
    ({}, "The one case has nothing to be compared with."),
])  # fmt: skip
def test_the_text_says_whether_every_case_computed_the_same(tmp_path, second, sentence):
    for threads, losses in ((1, {0: 5.0, 10: 4.0}), (2, second)):
        evals = [
            {"record": "eval", "task": "validation", "metric": "loss", "value": v, "step": s} for s, v in losses.items()
        ]
        log = written.records(*written.steps([9, 1]), *evals)
        written.case(tmp_path / "r" / str(threads), log, parameters={"threads": threads}, invariant=["threads"])
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert sentence in text
    [losses] = [each for each in tables(text) if each[0][0] == "step"]
    assert "nan" not in str(losses)


def test_a_shorter_first_case_does_not_hide_the_losses_of_the_others(tmp_path):
    for threads, losses in ((1, {0: 5.0}), (2, {0: 5.0, 10: 4.0})):
        evals = [
            {"record": "eval", "task": "validation", "metric": "loss", "value": v, "step": s} for s, v in losses.items()
        ]
        written.case(
            tmp_path / "r" / str(threads),
            written.records(*evals),
            parameters={"threads": threads},
            invariant=["threads"],
        )
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    [losses] = [each for each in tables(text) if each[0][0] == "step"]
    assert losses[1:] == [["0", "5.000000"], ["10", "4.000000"]]


# What anyone may have written into logs, names and values.

INJECTIONS = [
    "a|b", "a\nb\n\n# heading", "`code`", "``` fence", "<script>alert(1)</script>", "<!-- -->",
    "[link](javascript:a(1))",
    "![image](http://x/y.png)", "*bold* _it_ ~~no~~", "$\\frac{$", "\\", "\\|", "&lt;", "{{ 7 * 7 }}", "{% raw %}",
    "\x1b[31mred\0", "\u202egnp.exe", "漢字 ünï", "\ud800", "x" * 100_000, "", " ", "- item", "1. item", "| --- |",
    "#1 @someone", "true",
]  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS, ids=[ascii(each)[:40] for each in INJECTIONS])
def test_no_text_from_outside_changes_the_report(tmp_path, text):
    folder = tmp_path / "r"
    log = written.records(*written.steps([9.0, 1.0]), {"record": "event", "kind": "out_of_memory", "message": text})
    written.case(folder / "a", log, {**written.FAILED, "signal": text}, parameters={"data": text, "threads": 1})
    written.case(folder / "b", log, parameters={"data": "plain", "threads": 2})
    (folder / "a" / "stderr.log").write_text(f"MemoryError: {text}\n", errors="replace")
    facts = {"host": text, "cpu": text, "gpus": [text], "governor": text}
    software = {"python": text, "libraries": {text: text}, "environment": {text: text}, "git": {"commit": text}}
    metrics = parse(
        written.run(
            folder,
            title=text,
            description=text,
            command=[text, text],
            sweep=text,
            machine=facts,
            software=software,
            run=text,
            parameters={"threads": {"unit": text}},
        )
    )
    file = report(metrics, tmp_path / "out")
    written_text = file.read_text(encoding="utf-8")
    headings = [line for line in written_text.splitlines() if re.match("#+ ", line)]
    assert headings[1:] == [
        "## Results", "## What did not complete", "## What ran where", "## Where the numbers come from",
    ]  # fmt: skip
    assert len(tables(written_text)) == 4
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", written_text))
    assert not re.search(r"<(?!br)[a-z!/]", outside_code)
    links = [link for link in re.findall(r"\]\((.*?)\)", outside_code) if not link.startswith("figures/")]
    assert links == []
    assert "49" not in str(headings)
    json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    pd.read_csv(tmp_path / "out" / "tables" / "events.csv")
    for svg in (tmp_path / "out" / "figures").glob("*.svg"):
        assert "<script" not in svg.read_text(encoding="utf-8")


def test_values_in_a_table_read_as_they_were_written():
    values = [text for text in INJECTIONS if text.isprintable() and text.strip()]
    [rows] = tables(table(["what", "value"], [("a", value) for value in values]))
    assert [row[1] for row in rows[1:]] == [value.strip() for value in values]


def test_code_cannot_be_ended_by_its_content():
    for text in ("a", "a`b", "``", "`", "a```b`` c"):
        span = code(text)
        fence = re.match("`+", span)[0]
        inner = span.removeprefix(fence).removesuffix(fence)
        assert inner.strip() == text
        assert fence not in re.findall("`+", inner)


def test_underscores_within_words_stay_readable():
    assert escape("sequence_length") == "sequence_length"
    assert escape("_start and end_") == r"\_start and end\_"


RUN_JSON = [
    {"machine": "x"}, {"machine": [1]}, {"machine": {"gpus": 5, "memory": "x", "cores": []}},
    {"machine": {"memory": math.nan}}, {"software": "x"}, {"software": {"git": {"commit": 5}}},
    {"software": {"libraries": [1], "environment": "x", "git": "x"}},
    {"command": "x"}, {"command": [5, None]}, {"command": {}}, {"sweep": {"a": 1}}, {"title": [1]}, {"title": None},
    {"description": [1]}, {"created": 1e300}, {"created": -1e300}, {"created": "now"}, {"created": math.nan},
    {"run": None},
    {"parameters": [1]}, {"parameters": {"threads": 5}}, {"parameters": {"threads": {"unit": [1]}}}, {"benchmark": [1]},
    {"number": math.inf}, {"number": 10**400},
]  # fmt: skip


def test_run_jsons_of_the_wrong_types_are_reported_as_far_as_they_go(tmp_path):
    for index, said in enumerate(RUN_JSON):
        written.sweep(tmp_path / "logs" / f"r{index:02d}", {1: [[9.0, 8.0]], 2: [[9.0, 4.0]]}, **said)
    text = report(parse(tmp_path / "logs"), tmp_path / "out").read_text()
    rows = tables(text)[0][1:]
    assert len(rows) == 2 * len(RUN_JSON)
    assert {tuple(row[1:4]) for row in rows} == {("1", "1", "8.000"), ("2", "1", "4.000")}
    data = json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=pytest.fail)
    assert len(data["runs"]) == len(RUN_JSON)


def test_a_run_json_nested_without_end_is_reported_as_far_as_it_goes(tmp_path):
    folder = written.sweep(tmp_path / "r", {1: [[9.0, 8.0]]})
    record = (folder / "run.json").read_text()
    (folder / "run.json").write_text(record[:-1] + ', "deep": ' + "[" * 490 + "]" * 490 + "}")
    report(parse(folder), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["runs"]["r"]["deep"]


# How numbers and figures are made.


def comparison_of(folder, baseline=None):
    metrics = parse(folder)
    [comparison] = compare(metrics, baseline)
    return metrics, comparison


@pytest.mark.parametrize(("times", "title", "cells"), [
    ([12.1612, 3.27289], "step time (s)", ["12.161", "3.273"]),  # the same decimals, as many as the smallest needs
    ([0.5, 0.0625], "step time (ms)", ["500.00", "62.50"]),
    ([120.0, 0.5], "step time (s)", ["120.0", "0.5000"]),  # too far apart for that
    ([1e-6, 2e-6], "step time (µs)", ["1.000", "2.000"]),
])  # fmt: skip
def test_the_numbers_of_a_column_have_one_unit_and_the_same_decimals(tmp_path, times, title, cells):
    _, comparison = comparison_of(written.sweep(tmp_path / "r", {n + 1: [[9, time]] for n, time in enumerate(times)}))
    headings, rows = comparison_table(comparison)
    assert [row[headings.index(title)] for row in rows] == cells


def test_the_other_metrics_stand_with_their_spread_over_repeats(tmp_path):
    for repeat, memory in ((1, 2**30), (2, 3 * 2**30)):
        log = written.records(
            *written.steps([9, 1]), {"record": "counter", "name": "max_memory", "value": memory, "unit": "B"}
        )
        written.case(tmp_path / "r" / str(repeat), log, repeat=repeat, headline=["step_time", "max_memory"])
    _, comparison = comparison_of(written.run(tmp_path / "r"))
    headings, [row] = comparison_table(comparison)
    assert row[headings.index("peak memory (GiB)")] == "2.000 ± 1.4"


@pytest.mark.parametrize(("value", "text"), [
    (4, "4"), (0.5, "0.5"), (True, "true"), (None, "–"), ("", '""'), ("a\n\tb\x1b", "a  b "),
    ("x" * 100 + "y" * 100, "x" * 40 + "…" + "y" * 40),
])  # fmt: skip
def test_a_value_is_shown_on_one_line_of_bearable_length(value, text):
    assert axis_value(value) == text


def test_parameters_held_fixed_are_shown_as_they_were_given(tmp_path):
    parameters = {"compile": False, "seed": 2**53 + 1, "rate": 0.0006, "data": ""}
    written.case(tmp_path / "r" / "a", written.records(*written.steps([9, 1])), parameters=parameters)
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    [fixed] = [each for each in tables(text) if each[0][0] == "parameter"]
    assert fixed[1:] == [["compile", "false"], ["seed", "9007199254740993"], ["rate", "0.0006"], ["data", '""']]


@pytest.mark.parametrize(("steps", "text"), [(0, None), (1, "0"), (3, "0 to 2")])
def test_warm_up_is_told_in_ranges(tmp_path, steps, text):
    written.case(tmp_path / "r" / "a", written.records(*written.steps([9, 8, 7, 1, 1], warmup=steps)))
    found = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert re.findall("Warm-up, in no mean: step (.*)[.]", found) == ([text] if text else [])


def test_an_interval_that_says_nothing_is_not_spelled_out(tmp_path):
    _, comparison = comparison_of(written.sweep(tmp_path / "r", {1: [[9, 1], [9, 9]], 2: [[9, 1], [9, 9]]}))
    assert interval(comparison.rows[1].ratio) == "not bounded"


def axes_of(run, name):
    """Draw one figure and return its axes."""
    import matplotlib.pyplot as plt

    metrics, comparison = comparison_of(run)
    made = {
        "metric": lambda one: figures._metric_over_axis(one, "step_time", "threads"),
        "speedup": lambda one: figures._scaling(one, "threads"),
        "steps": lambda one: figures._over_steps(metrics, one),
    }[name](section(metrics, comparison))
    plt.close(made[0])
    return made[0].axes[0]


def test_the_proportional_line_is_where_proportional_is(run):
    """On a logarithmic axis it is a curve: a straight line from end to end would be far too high in between."""
    axes = axes_of(run, "speedup")
    assert axes.get_xscale() == "log"
    [ideal] = [line for line in axes.get_lines() if line.get_label() == "proportional"]
    x, y = (np.asarray(each) for each in ideal.get_data())
    assert y == pytest.approx(x)
    assert len(x) > 50


def test_a_figure_shows_means_error_bars_and_starts_at_zero(run):
    axes = axes_of(run, "metric")
    [(line, _, (bars,))] = axes.containers
    assert list(line.get_ydata()) == pytest.approx([8.15, 4.15, 2.15])
    heights = [segment[1][1] - segment[0][1] for segment in bars.get_segments()]
    assert heights == pytest.approx([2 * np.std([a, a + 0.1], ddof=1) for a in (8.1, 4.1, 2.1)])
    assert axes.get_ylim()[0] == 0
    assert [text.get_text() for text in axes.texts] == ["8.15", "4.15", "2.15"]
    assert axes.get_ylabel() == "step time (s)"


def test_the_steps_of_every_case_are_drawn_warm_up_hollow(run):
    lines = axes_of(run, "steps").get_lines()
    curves = [line for line in lines if line.get_linestyle() == "-"]
    hollow = [line for line in lines if line.get_markerfacecolor() == "white"]
    assert sorted(list(line.get_ydata()) for line in curves) == sorted(
        times for repeats in TIMES.values() for times in repeats
    )
    assert [list(line.get_xdata()) for line in hollow] == [[0]] * 6


def test_a_legend_of_many_lines_leaves_the_figure_its_room(tmp_path):
    import matplotlib.pyplot as plt

    for index in range(30):
        parameters = {"threads": 1 + index % 2, "data": f"/a/rather/long/path/to/the/data/number/{index // 2}"}
        written.case(tmp_path / "r" / f"{index:02d}", written.records(*written.steps([9, 1])), parameters=parameters)
    metrics, comparison = comparison_of(written.run(tmp_path / "r"))
    with plt.rc_context(figures._STYLE):
        figure, _ = figures._metric_over_axis(section(metrics, comparison), "step_time", "threads")
        figure.canvas.draw()
        plt.close(figure)
    assert figure.axes[0].get_position().height * figure.get_figheight() > 3  # inches
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize("points", [
    [{"threads": t, "batch": b} for t in (1, 2, 4) for b in range(40)],
    [{"threads": t} for t in range(1, 61)],
    [{"matmul": m, "dtype": d} for m in ("default", "a-quite-long-name" * 3, "third") for d in ("float32", "bfloat16")],
    [{"threads": t, "data": "/a/very/long/path/" * 8 + d} for t in (1, 2) for d in ("a", "b", "c")],
    [{"threads": "1"}, {"threads": 1}, {"threads": "auto"}, {}],
    [{"threads": 0}, {"threads": 1}, {"threads": -5}],
    [{"threads": 1e-9}, {"threads": 1e9}],
    [{"compile": True}, {"compile": False}],
    [{"log": "_hidden"}, {"log": "_"}],
], ids=[
    "many lines", "many values", "words", "long words", "mixed", "zero", "far apart", "yes or no", "underscores",
])  # fmt: skip
def test_sweeps_of_any_shape_can_be_drawn_without_a_warning(tmp_path, points):
    for index, point in enumerate(points):
        log = written.records(*written.steps([9, 1 + index, 2 + index]))
        written.case(tmp_path / "r" / f"{index:03d}", log, parameters=point)
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert len(tables(text)[0]) == 1 + len(points)
    assert len(re.findall(r"!\[", text)) >= 2


def test_logs_that_only_their_names_tell_apart_are_not_held_against_each_other(tmp_path):
    for name, loss in (("bert", 4.1), ("llama", 9.8)):
        (tmp_path / f"{name}.log").write_text(f"val loss {loss:.6f}\n" + written.llmc([9, 1, 1]))
    text = report(parse(tmp_path), tmp_path / "out").read_text()
    assert "Did every case compute the same?" not in text
