"""What a report shows of answers: scores, pairs of points, flips, findings, in the text, the tables and the data."""

import json

import answered
import pandas as pd
import pytest
import toy
import written

from hpcbench.parse import parse
from hpcbench.report import report


def tables(text):
    """Return the tables of a Markdown text by their section: lists of rows of cells, the heading first."""
    found, title = {}, ""
    for line in text.splitlines():
        if line.startswith("#"):
            title = line.lstrip("# ")
        elif line.startswith("|") and not line.startswith(("| --", "|--")):
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@pytest.fixture
def run(tmp_path):
    """Three modes that give the same answers, and one of lower precision that does not."""
    for mode, dtype, wall, right in (
        ("sequential", "float32", 40.0, 60), ("parallel", "float32", 36.0, 60), ("batched", "float32", 9.0, 60),
        ("batched", "bfloat16", 7.0, 52),
    ):  # fmt: skip
        rows = answered.answers("astronomy", 152, right, duration=0.01) + answered.answers("virology", 48, 12)
        rows[-1] |= {"choice": "", "correct": 0}
        events = answered.phases(0, 0.0, [("import", 1.0), ("model", 2.0), ("score", 3.25)])
        parameters = {"mode": mode, "dtype": dtype}
        answered.case(tmp_path / "r" / f"{mode}-{dtype}", wall, events, answers=rows, parameters=parameters)
    return written.run(tmp_path / "r", benchmark="mmlu", title="MMLU")


def test_scores_are_by_point_and_by_subject(run, tmp_path):
    found = tables(report(parse(run), tmp_path / "out").read_text())["Scores"]
    assert found[:2] == [
        ["mode", "dtype", "runs", "questions", "right", "accuracy (%)", "95 % interval (%)", "mean of subjects (%)",
         "no answer", "protocol"],
        ["batched", "bfloat16", "1", "200", "64", "32.00", "25.93 to 38.75", "29.61", "1", "log-likelihood"],
    ]  # fmt: skip
    by_subject = found[5:]
    assert by_subject[:3] == [
        ["mode", "dtype", "subject", "questions", "right", "accuracy (%)", "95 % interval (%)",
         "time of its answers (s)", "of one (ms)"],
        ["batched", "bfloat16", "astronomy", "152", "52", "34.21", "27.14 to 42.06", "1.520", "10.00"],
        ["batched", "bfloat16", "virology", "48", "12", "25.00", "14.92 to 38.78", "–", "–"],
    ]  # fmt: skip
    assert len(by_subject) == 1 + 4 * 2


def test_points_are_held_against_the_baseline_answer_by_answer(run, tmp_path):
    text = report(parse(run), tmp_path / "out").read_text()
    found = tables(text)["Answer by answer"]
    assert found[:4] == [
        ["first", "second", "questions of both", "both right", "only the first", "only the second", "neither",
         "another choice", "p"],
        ["mode sequential, dtype float32", "mode batched, dtype bfloat16", "200", "64", "8", "0", "128", "8", "0.0078"],
        ["mode sequential, dtype float32", "mode batched, dtype float32", "200", "72", "0", "0", "128", "0", "1"],
        ["mode sequential, dtype float32", "mode parallel, dtype float32", "200", "72", "0", "0", "128", "0", "1"],
    ]  # fmt: skip
    flips = found[4:]
    assert flips[1] == [
        "mode sequential, dtype float32", "mode batched, dtype bfloat16", "astronomy", "52", "A", "B", "A",
    ]  # fmt: skip
    assert len(flips) == 1 + 8


def test_modes_that_must_give_the_same_answers_are_said_to(run, tmp_path):
    text = report(parse(run), tmp_path / "out").read_text()
    assert "All 200 answers are the same in 3 cases with dtype float32." in text
    other = answered.answers("astronomy", 152, 59, duration=0.01) + answered.answers("virology", 48, 12)
    (run / "batched-float32" / "answers.jsonl").write_text(written.records(*other))
    text = report(parse(run), tmp_path / "out").read_text()
    assert "2 of 200 answers are NOT the same in 3 cases with dtype float32." in text


def test_the_tables_and_the_data_hold_all_of_it(run, tmp_path):
    report(parse(run), tmp_path / "out")
    lines = pd.read_csv(tmp_path / "out" / "tables" / "scores.csv", keep_default_na=False)
    assert list(lines["subject"]) == ["astronomy", "virology", ""] * 4
    assert list(lines["accuracy"][:3]) == pytest.approx([52 / 152, 0.25, 0.32])
    flips = pd.read_csv(tmp_path / "out" / "tables" / "flips.csv")
    assert list(flips.columns) == ["first", "second", "subject", "number", "before", "after", "answer"]
    assert list(flips["number"].map(str)) == [str(number) for number in range(52, 60)]
    [one] = json.loads((tmp_path / "out" / "report.json").read_text())["sections"]
    assert one["scores"][0]["point"] == {"mode": "batched", "dtype": "bfloat16"}
    assert (one["scores"][0]["questions"], one["scores"][0]["correct"], one["scores"][0]["unparsed"]) == (200, [64], 1)
    assert [score["subject"] for score in one["scores"][0]["subjects"]] == ["astronomy", "virology"]
    pair = one["pairs"][0]
    assert [pair[name] for name in ("questions", "both_right", "only_first", "only_second")] == [200, 64, 8, 0]
    assert (pair["p"], len(pair["flips"])) == (pytest.approx(2 / 2**8), 8)
    assert one["sameness"][0]["answers"] == {"questions": 200, "different": 0, "scores": None}
    assert any("each measured once" in finding for finding in one["findings"])


def test_what_is_too_long_for_the_text_is_counted_there_and_whole_in_the_tables(tmp_path):
    subjects = [f"subject_{number:03d}" for number in range(130)]
    for mode, right in (("sequential", 2), ("batched", 1)):
        rows = [row for subject in subjects for row in answered.answers(subject, 2, right)]
        answered.case(tmp_path / "r" / mode, 9.0, answers=rows, parameters={"mode": mode})
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert "140 more lines are in `tables/scores.csv`." in text
    assert "110 more questions with another choice are in `tables/flips.csv`." in text
    assert len(tables(text)["Answer by answer"]) == 1 + 1 + 1 + 20
    assert len(pd.read_csv(tmp_path / "out" / "tables" / "flips.csv")) == 130


def test_scores_that_were_got_in_other_ways_are_said_to_be(tmp_path):
    for site, protocol, prompt in (("one", "generated letter", "aa"), ("two", "log-likelihood of completions", "bb")):
        rows = answered.requests("ethics", 8, 4, 4.0, prompt=prompt)
        rows = [{**row, "protocol": protocol} for row in rows]
        answered.case(tmp_path / "r" / site, 4.0, requests=rows, site=site, baseline={"site": "one"}, parameters={})
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert (
        "site two against site one: answers were read by log-likelihood of completions against generated letter and 8 "
        "of 8 questions were put in other words, so their scores differ in more than what answered"
    ) in text


def test_names_and_choices_from_a_log_stay_text(tmp_path):
    evil = "| x |\n# A heading <script>"
    for mode in ("sequential", "batched"):
        rows = [answered.answer(evil, n, f"{mode}`|", protocol=evil) for n in range(4)]
        answered.case(tmp_path / "r" / mode, 9.0, answers=rows, parameters={"mode": mode})
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    assert "<script>" not in text
    assert "\n# A heading" not in text
    assert "sequential\\`\\|" in text


def test_the_terminal_shows_scores_and_findings(run, tmp_path):
    done = toy.hpcbench("parse", str(run), cwd=tmp_path)
    lines = done.stdout.partition("Scores\n")[2].splitlines()
    assert "accuracy (%)" in lines[0]
    assert lines[1].split()[:6] == ["batched", "bfloat16", "1", "200", "64", "32.00"]
    assert "mode batched, dtype float32 against mode sequential, dtype float32: wall time 9.000 s" in done.stdout


def test_a_program_that_answers_nothing_has_no_such_sections(tmp_path):
    text = report(
        parse(written.sweep(tmp_path / "r", {1: [[9.0, 1.0]], 2: [[9.0, 1.0]]})), tmp_path / "out"
    ).read_text()
    assert not {"Scores", "Answer by answer", "Findings"} & tables(text).keys()
    assert "Findings" not in text
    assert not (tmp_path / "out" / "tables" / "scores.csv").exists()
