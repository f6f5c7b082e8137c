"""E4: gpt-oss-120b on ten prompts of SQuAD, Metis against Sophia, from request records with its published figures."""

import json

import pytest

import hpcbench
from hpcbench.analyse.summary import compare

# ten latencies a side with the published mean, median, least and most
LATENCIES = {
    "metis": [4.465, 4.550, 4.640, 4.805, 5.000, 5.088, 5.130, 5.250, 5.407, 5.535],
    "sophia": [0.597, 0.700, 0.850, 1.000, 1.700, 1.822, 1.950, 2.100, 2.358, 3.133],
}
TOKENS = {"metis": 326, "sophia": 330.7}


@pytest.fixture
def logs(tmp_path):
    run = {
        "run": "e4",
        "benchmark": "squad",
        "title": "E4",
        "cases": list(LATENCIES),
        "sites": dict.fromkeys(LATENCIES),
    }
    (tmp_path / "e4").mkdir()
    (tmp_path / "e4" / "run.json").write_text(json.dumps(run))
    headline = ["latency_mean", "latency_median", "output_tokens_per_second"]
    for site, latencies in LATENCIES.items():
        folder = tmp_path / "e4" / site
        folder.mkdir()
        about = {"run": "e4", "case": site, "site": site, "benchmark": "squad", "parameters": {}, "axes": []}
        case = {
            **about,
            "logs": {"requests.jsonl": "hpcbench-records"},
            "headline": headline,
            "baseline": {"site": "first"},
        }
        (folder / "case.json").write_text(json.dumps(case))
        (folder / "exit.json").write_text('{"status": 0, "signal": null, "started": 1, "ended": 99, "host": "here"}')
        rows, clock = [], 1000.0
        for number, latency in enumerate(latencies):
            rows.append({
                "record": "request", "request": number, "question": f"q{number}", "phase": "measured", "error": "",
                "status": "200", "retries": 0, "started": clock, "finished": clock + latency, "latency": latency,
                "output_tokens": TOKENS[site],
            })  # fmt: skip
            clock += latency
        (folder / "requests.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path / "e4"


def test_the_published_table(logs):
    (comparison,) = compare(hpcbench.parse(logs))
    published = (4.987, 5.044, 65.37), (1.621, 1.761, 203.98)
    for row, (mean, median, rate) in zip(comparison.rows, published, strict=True):
        assert row.metrics["latency_mean"].mean == pytest.approx(mean, abs=0.0005)
        assert row.metrics["latency_median"].mean == pytest.approx(median)
        assert row.metrics["output_tokens_per_second"].mean == pytest.approx(rate, rel=0.002)


def test_the_ratio_has_its_interval_and_the_report_says_what_was_not_tested(logs, tmp_path):
    (comparison,) = compare(hpcbench.parse(logs))
    metis, sophia = comparison.rows
    assert metis.is_baseline
    assert sophia.ratio.speedup == pytest.approx(3.08, abs=0.005)
    assert sophia.ratio.pairs == 10
    assert 2 < sophia.ratio.low < sophia.ratio.speedup < sophia.ratio.high < 6
    hpcbench.report(hpcbench.parse(logs), tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "over the 10 questions asked of both" in text
    assert "What was not asked, other prompts, lengths and loads, it says nothing of." in text
