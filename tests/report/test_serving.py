"""What a report tells of the requests to an endpoint: counts, percentiles, a server that takes them one by one."""

import json

import pytest
import written

from hpcbench.analyse.serving import serialised
from hpcbench.parse import parse
from hpcbench.report import report


def load(folder, streams: int, latency: float, rate: float, repeat: int = 1, **more: float) -> None:
    """Write the case of some streams: ten requests, and what its program counted."""
    requests = [
        {"record": "request", "question": f"q{n}", "phase": "measured", "error": "", "latency": latency}
        for n in range(10)
    ]
    counted = {
        "requests": 10, "failed_requests": 0, "retries": 3, "success_rate": 1.0, "requests_per_second": rate,
        "latency_median": latency, "latency_p99": 2 * latency, "steady_tokens_per_second": 64 * rate, **more,
    }  # fmt: skip
    counters = [{"record": "counter", "name": name, "value": value} for name, value in counted.items()]
    case = written.case(
        folder / (f"{streams}-{repeat}" if repeat > 1 else f"{streams}"), written.records(*counters), repeat=repeat,
        parameters={"concurrency": streams}, axes=["concurrency"],
        headline=["latency_mean"],
        logs={"stdout.log": "hpcbench-records", "requests.jsonl": "hpcbench-records"},
    )  # fmt: skip
    (case / "requests.jsonl").write_text(written.records(*requests))


@pytest.mark.parametrize(("figures", "told"), [
    ({1: (0.5, 2.0), 8: (4.0, 2.0)}, ["8 streams in place of 1 give 1.00 times the requests a second"]),
    ({1: (0.5, 2.0), 8: (0.6, 13.0)}, []),
    ({1: (0.5, 2.0), 8: (4.0, 8.0)}, []),  # slow, but more come out
    ({1: (0.5, 2.0), 8: (0.6, 2.0)}, []),  # nobody waits: there was not more to do
    ({2: (0.5, 4.0), 4: (0.5, 8.0), 16: (2.0, 8.4)}, ["16 streams in place of 4 give 1.05 times"]),
    ({4: (0.5, 8.0)}, []),
])  # fmt: skip
def test_a_server_that_takes_requests_one_after_another(tmp_path, figures, told):
    for streams, (latency, rate) in figures.items():
        load(tmp_path / "r", streams, latency, rate)
    found = serialised(parse(written.run(tmp_path / "r")))
    assert [case for case, _ in found] == ["16" if 16 in figures else "8"] * len(told)
    for (_, sentence), start in zip(found, told, strict=True):
        assert sentence.startswith(start)


@pytest.mark.parametrize(("second", "told"), [(0.6, 0), (3.0, 1)])
def test_repeats_are_held_against_each_other_by_their_mean(tmp_path, second, told):
    """One repeat alone would be told of: 8 times the latency for no more requests a second."""
    load(tmp_path / "r", 1, 0.5, 2.0)
    load(tmp_path / "r", 1, 0.5, 2.0, repeat=2)
    load(tmp_path / "r", 8, 4.0, 2.0)
    load(tmp_path / "r", 8, second, 2.0, repeat=2)
    assert [case for case, _ in serialised(parse(written.run(tmp_path / "r")))] == ["8"] * told


def test_the_report_has_counts_and_percentiles(tmp_path):
    load(tmp_path / "r", 1, 0.5, 2.0, goodput=1.5)
    load(tmp_path / "r", 8, 4.0, 2.0)
    text = report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    head = ["point", "requests", "failed", "sent again", "requests/s", "tokens/s, steady", "good requests/s"]
    assert head in lines
    assert ["concurrency 1", "10", "0", "3", "2", "128", "1.500"] in lines
    assert ["concurrency 8", "10", "0", "3", "2", "128", "–"] in lines
    assert ["concurrency 8", "latency", "–", "4.000 s", "–", "–", "8.000 s", "–", "–"] in lines
    assert "## How far to trust it" in text
    assert "8 streams in place of 1 give 1.00 times the requests a second" in text
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["sections"][0]["requests"][0]["counters"]["goodput"] == {"values": [1.5], "unit": ""}


def test_a_program_that_sends_no_requests_has_no_such_table(tmp_path):
    written.case(tmp_path / "r" / "1", written.records({"record": "counter", "name": "requests", "value": 1}))
    assert "## The requests" not in report(parse(written.run(tmp_path / "r")), tmp_path / "out").read_text()
