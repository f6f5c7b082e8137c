"""A site behind a gateway that passes tokens on in groups: its times between tokens are told nowhere."""

import json

import pandas as pd
import pytest
import written

from hpcbench import progress
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse
from hpcbench.report import report, section
from hpcbench.report.view import comparison_table

RELAY = {"record": "event", "kind": "relay", "message": "chunks come in groups of 20 every 0.50 s"}
HEADLINE = ["latency_mean", "ttft_mean", "tpot_mean", "chunk_gap_mean", "output_tokens_per_second"]


def site(folder, name, tpot, *said, repeat=1, headline=HEADLINE):
    """Write the case of a site: eight questions, `tpot` seconds a token, and what else its program said."""
    requests = [
        {"record": "request", "question": f"q{n}", "phase": "measured", "error": "", "started": 10.0 * n,
         "finished": 10.0 * n + 5, "ttft": 0.25, "tpot": tpot, "latency": 50 * tpot, "output_tokens": 100}
        for n in range(8)
    ]  # fmt: skip
    counters = [
        {"record": "counter", "name": name, "value": value, "unit": "s"}
        for name, value in (("tpot_p99", tpot), ("chunk_gap_mean", tpot))
    ]
    case = written.case(
        folder / f"{name}-{repeat}", written.records(*counters, *said), site=name, repeat=repeat,
        headline=headline, baseline={"site": "one"},
        logs={"stdout.log": "hpcbench-records", "requests.jsonl": "hpcbench-records"},
    )  # fmt: skip
    (case / "requests.jsonl").write_text(written.records(*requests))


@pytest.fixture
def run(tmp_path):
    site(tmp_path / "r", "one", 0.03)
    site(tmp_path / "r", "two", 0.02, RELAY)
    return written.run(tmp_path / "r")


def test_the_table_leaves_out_times_between_tokens_and_nothing_else(run):
    [comparison] = compare(parse(run))
    headings, lines = comparison_table(comparison)
    assert headings == [
        "site", "runs", "latency, mean (s)", "± in a run", "speed-up", "95 % interval", "slowdown",
        "time to first token, mean (ms)", "time per output token, mean (ms)", "time between chunks, mean (ms)",
        "output tokens per second (tokens/s)",
    ]  # fmt: skip
    assert lines == [
        ["one", "1", "1.500", "0", "baseline", "–", "baseline", "250.0", "30.00", "30.00", "10.67"],
        ["two", "1", "1.000", "0", "1.50×", "1.50 to 1.50", "0.67×", "250.0", "–", "–", "10.67"],
    ]


def test_they_are_in_none_of_the_files_of_a_report(run, tmp_path):
    text = report(parse(run), tmp_path / "out").read_text()
    [row] = [line for line in text.splitlines() if line.startswith("| two ")]
    assert [cell.strip() for cell in row.split("|")][9:11] == ["–", "–"]
    assert "chunks come in groups of 20" in text

    data = json.loads((tmp_path / "out" / "report.json").read_text())
    one, two = (each["metrics"] for each in data["sections"][0]["rows"])
    assert (one["tpot_mean"]["mean"], one["chunk_gap_mean"]["mean"]) == (0.03, 0.03)
    for name in ("tpot_mean", "chunk_gap_mean"):
        assert (two[name]["mean"], two[name]["repeats"]) == (None, [])
    assert two["latency_mean"]["mean"] == 1

    tables = tmp_path / "out" / "tables"
    comparison = pd.read_csv(tables / "comparison.csv").set_index("site")
    assert comparison.loc["two", ["tpot_mean_mean", "chunk_gap_mean_mean"]].isna().all()
    assert comparison.loc["two", "ttft_mean_mean"] == 0.25
    requests = pd.read_csv(tables / "requests.csv").groupby("source")["tpot"].count()
    assert sorted(requests) == [0, 8]
    names = pd.read_csv(tables / "counters.csv")["name"].tolist()
    assert (names.count("tpot_p99"), names.count("chunk_gap_mean")) == (1, 1)

    figures = data["sections"][0]["figures"]
    assert "latency_mean-over-site" in figures
    assert not any(name.startswith(("tpot", "chunk_gap")) for name in figures)  # one bar is compared with nothing


def test_the_terminal_shows_none_of_them(run, capsys):
    metrics = parse(run)
    progress.comparison(metrics, [section(metrics, each) for each in compare(metrics)])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["two"]]
    assert "20.00" not in line
    assert line.count("–") == 2


@pytest.mark.parametrize("relayed", ["one", "two"])
@pytest.mark.parametrize("metric", ["tpot_mean", "tpot_median", "chunk_gap_mean"])
def test_there_is_no_ratio_of_them_whichever_side_is_relayed(tmp_path, relayed, metric):
    for name, tpot in (("one", 0.03), ("two", 0.02)):
        said = [RELAY] if name == relayed else []
        site(tmp_path / "r", name, tpot, *said, headline=[metric, "ttft_mean"])
    [comparison] = compare(parse(written.run(tmp_path / "r")))
    assert comparison.metrics[0] == metric
    assert not any(row.ratio for row in comparison.rows if row.point["site"] == "two")
    report(parse(tmp_path / "r"), tmp_path / "out")


def test_among_three_sites_the_others_keep_their_ratio_and_figure(tmp_path):
    for name, tpot, said in (("one", 0.03, []), ("three", 0.01, []), ("two", 0.02, [RELAY])):
        site(tmp_path / "r", name, tpot, *said, headline=["tpot_mean", "ttft_mean"])
    [comparison] = compare(parse(written.run(tmp_path / "r")))
    ratios = {row.point["site"]: row.ratio and round(row.ratio.speedup, 9) for row in comparison.rows}
    assert ratios == {"one": 1, "three": 3, "two": None}
    report(parse(tmp_path / "r"), tmp_path / "out")
    svg = (tmp_path / "out" / "figures" / "tpot_mean-over-site.svg").read_text()
    assert "<!-- three -->" in svg
    assert "<!-- two -->" not in svg


def test_a_repeat_that_was_not_relayed_keeps_its_own(tmp_path):
    site(tmp_path / "r", "one", 0.03)
    site(tmp_path / "r", "two", 0.02, RELAY)
    site(tmp_path / "r", "two", 0.04, repeat=2)
    [comparison] = compare(parse(written.run(tmp_path / "r")))
    two = comparison.rows[1].metrics
    assert two["tpot_mean"].values == (0.04,)
    assert two["chunk_gap_mean"].values == (0.04,)
    assert two["latency_mean"].values == (1.0, 2.0)


def test_where_all_are_relayed_there_is_no_such_column(tmp_path):
    for name in ("one", "two"):
        site(tmp_path / "r", name, 0.02, RELAY)
    [comparison] = compare(parse(written.run(tmp_path / "r")))
    assert comparison.metrics == ("latency_mean", "ttft_mean", "output_tokens_per_second")
