"""Endpoints measured by the command line, against servers that know the truth and servers that fail."""

import json
import os
import subprocess
import sys
import time
from itertools import groupby, pairwise

import faults
import pytest
import toy
from toy import hpcbench, until

import hpcbench as package
from hpcbench.analyse.summary import compare
from hpcbench.inference.server import Behaviour, running

FAST = Behaviour(tokens_per_second=500.0, first_token=(0.01, 0.03))
CANARY = "canary-0123456789abcdef"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "sites").mkdir()
    return tmp_path


def site(place, name: str, url: str, model: str = "tiny", rest: str = "") -> None:
    text = f"title: {name}\nendpoint: {{base_url: '{url}', model: {model}{rest}}}\n"
    (place / "sites" / f"{name}.yaml").write_text(text)


def submit(place, *arguments: str, check: int | None = 0, **environment: str):
    command = ["submit", "--benchmark", "chat", "--input-tokens", "32", "--warmup", "1"]
    if "--max-tokens" not in arguments:
        command += ["--max-tokens", "8"]
    return hpcbench(*command, "--name", "r", "--wait", *arguments, cwd=place, check=check, **environment)


def records(place, case: str, file: str = "requests.jsonl") -> list[dict]:
    return [json.loads(line) for line in (place / "logs" / "r" / case / file).read_text().splitlines()]


def measured(place, case: str) -> list[dict]:
    return [row for row in records(place, case) if row["phase"] == "measured"]


def said(place, case: str, kind: str) -> list[str]:
    return [row["message"] for row in records(place, case, "stdout.log") if row.get("kind") == kind]


def counters(place, case: str) -> dict[str, float]:
    return {row["name"]: row["value"] for row in records(place, case, "stdout.log") if row["record"] == "counter"}


def test_each_request_is_a_record_and_the_warm_up_counts_for_nothing(place):
    with running(FAST) as server:
        site(place, "truth", server.url)
        submit(place, "--site", "truth", "--requests", "12", "--concurrency", "4", "--slo", "ttft=0.0001,tpot=0.5")
        sends = {told["prompt"]: told for told in server.truth()}
    rows = records(place, "001")
    assert [row["phase"] for row in sorted(rows, key=lambda row: row["request"])] == ["warm-up", *["measured"] * 12]
    assert len({row["prompt"] for row in rows}) == 13
    assert len(sends) == 14  # and the question whether it answers
    found = counters(place, "001")
    assert (found["requests"], found["failed_requests"], found["success_rate"]) == (12, 0, 1)
    assert found["good_share"] == 0  # the first token takes ten milliseconds
    assert any("12 requests succeeded" in why for why in said(place, "001", "invalid"))
    metrics = package.parse(place / "logs")
    (comparison,) = compare(metrics)
    spread = comparison.rows[0].metrics["latency_mean"]
    assert spread.mean == pytest.approx(found["latency_mean"])


@pytest.mark.parametrize("pattern", ["constant", "poisson", "ramp"])
def test_requests_that_come_at_a_rate_are_sent_when_they_are_due(place, pattern):
    with running(FAST) as server:
        site(place, "truth", server.url)
        submit(place, "--site", "truth", "--requests", "20", "--pattern", pattern, "--rate", "50")
    rows = measured(place, "001")
    assert len(rows) == 20
    assert all(row["started"] >= row["scheduled"] for row in rows)
    assert all(row["latency_from_schedule"] >= row["latency"] for row in rows)


def test_limits_of_a_good_request_are_checked_before_anything_is_sent(place):
    site(place, "truth", "http://127.0.0.1:1/v1")
    done = submit(place, "--site", "truth", "--slo", "tfft=0.5", check=2)
    assert "--slo: 'tfft=0.5' is not like ttft=0.5" in done.stderr


def test_a_trace_is_sent_at_its_own_times(place):
    (place / "trace").write_text("10.0\n10.2\n10.25\n10.7\n")
    with running(FAST) as server:
        site(place, "truth", server.url)
        submit(place, "--site", "truth", "--requests", "4", "--pattern", "replay", "--trace", "trace")
    due = [row["scheduled"] for row in sorted(measured(place, "001"), key=lambda row: row["request"])]
    assert [round(time - due[0], 3) for time in due] == [0, 0.2, 0.25, 0.7]


def test_a_model_that_serves_one_at_a_time_shows_as_no_speed_up(place):
    """E2: eight times as many at once take eight times as long each, and as many come out a second."""
    with running(Behaviour(tokens_per_second=200.0, first_token=(0.01, 0.01), serialise=True)) as server:
        site(place, "truth", server.url)
        submit(place, "--site", "truth", "--requests", "24", "--concurrency", "1,8")
    alone, together = counters(place, "001-concurrency1"), counters(place, "002-concurrency8")
    assert together["latency_median"] > 4 * alone["latency_median"]
    assert together["requests_per_second"] < 2 * alone["requests_per_second"]


def test_endpoints_take_turns_on_the_same_questions(place):
    with running(FAST) as one, running(Behaviour(tokens_per_second=250.0, first_token=(0.05, 0.06))) as two:
        site(place, "one", one.url)
        site(place, "two", two.url)
        submit(place, "--site", "one,two", "--requests", "10")
    rows = [(row["started"], row["last_token"], site) for site in ("one", "two")
            for row in measured(place, f"{('one', 'two').index(site) + 1:03d}-{site}")]  # fmt: skip
    rows.sort()
    assert all(before[1] <= after[0] for before, after in pairwise(rows))
    assert [len(list(turn)) for _, turn in groupby(rows, key=lambda row: row[2])] == [1] * 20
    (comparison,) = compare(package.parse(place / "logs"))
    ratio = next(row.ratio for row in comparison.rows if not row.is_baseline)
    assert ratio.pairs == 10
    assert ratio.low <= ratio.speedup <= ratio.high < 1


def test_an_endpoint_that_is_not_there_keeps_nobody_waiting(place):
    with running(FAST) as server:
        site(place, "one", server.url)
        site(place, "gone", f"http://127.0.0.1:{toy.free_port()}/v1")
        done = submit(place, "--site", "gone,one", "--requests", "5", check=4)
    assert "001-gone  failed" in done.stderr
    assert "connect: " in done.stderr
    assert len(measured(place, "002-one")) == 5


def test_requests_that_failed_are_told_and_the_exit_status_is_4(place):
    with faults.serving() as server:
        site(place, "faulty", server.url, "one-in-3")
        done = submit(place, "--site", "faulty", "--requests", "30", check=4)
    rows = measured(place, "001")
    failed = [row for row in rows if row["error"]]
    assert (len(rows), len(failed)) == (30, 10)
    assert all(row["status"] == "500" and "latency" not in row for row in failed)
    assert "completed  not all of it: exit status 4: 10 of 30 requests failed: 10 × status 500" in done.stderr
    assert any("10 of 30 requests failed" in each for each in said(place, "001", "invalid"))


def test_a_relay_is_recognised_and_times_between_tokens_are_not_told(place):
    with running(Behaviour(tokens_per_second=100.0, first_token=(0.01, 0.02), relay=True)) as server:
        site(place, "relayed", server.url)
        submit(place, "--site", "relayed", "--requests", "4", "--concurrency", "4", "--max-tokens", "64")
    (why,) = said(place, "001", "relay")
    assert why.startswith("chunks come in groups of ")
    assert not any(name.startswith(("tpot", "chunk_gap")) for name in counters(place, "001"))


def test_what_was_measured_before_it_was_cancelled_is_not_measured_again(place):
    with running(Behaviour(tokens_per_second=100.0, first_token=(0.02, 0.03))) as server:
        site(place, "truth", server.url)
        command = (
            "submit",
            "--site",
            "truth",
            "--benchmark",
            "chat",
            "--requests",
            "300",
            "--max-tokens",
            "2",
            "--concurrency",
            "2",
        )
        hpcbench(*command, "--name", "r", cwd=place, check=0)
        file = place / "logs" / "r" / "001" / "requests.jsonl"
        until(lambda: file.exists() and len(file.read_text().splitlines()) > 8)
        hpcbench("cancel", "r", cwd=place, check=0)
        before = {row["request"] for row in measured(place, "001") if not row["error"]}
        assert 0 < len(before) < 300
        server.reset()
        hpcbench("resume", "r", "--failed", "--wait", cwd=place, check=0)
        asked = len(server.truth(sends=False))
    rows = [row for row in measured(place, "001") if not row["error"]]
    assert sorted(row["request"] for row in rows) == list(range(2, 302))
    assert asked == 1 + 2 + 300 - len(before)
    assert len({row["block"] for row in rows}) == 2


def test_a_strict_gateway_gets_only_what_it_knows(place):
    with faults.serving() as server:
        site(place, "faulty", server.url, "strict")
        submit(place, "--site", "faulty", "--requests", "3", "--max-tokens", "20")
        bodies = [asked["body"] for asked in server.requests][-4:]
    assert [row["error"] for row in records(place, "001")] == [""] * 4
    assert all(body["max_completion_tokens"] == 20 and body["temperature"] == 0 for body in bodies)
    assert not any({"seed", "max_tokens"} & body.keys() for body in bodies)
    assert any(each.startswith("seed: ") for each in said(place, "001", "field_dropped"))


@pytest.mark.parametrize("behaviour", ["echo", "ok"])
def test_the_token_appears_nowhere(place, behaviour):
    with faults.serving() as server:
        site(place, "secret", server.url, behaviour, rest=", token: {env: MY_TOKEN}")
        done = submit(place, "--site", "secret", "--requests", "3", check=None, MY_TOKEN=CANARY)
        assert any(CANARY in asked["headers"].get("authorization", "") for asked in server.requests)
    assert CANARY not in done.stdout + done.stderr
    for file in place.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--slo", "speed=1"), "--slo: 'speed=1' is not like ttft=0.5"),
        (("--pattern", "poisson"), "the patterns constant, poisson and ramp need a rate above 0"),
        (("--pattern", "replay"), "the pattern replay needs a trace"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_is_sent(place, arguments, words):
    site(place, "truth", "http://127.0.0.1:1/v1")
    done = submit(place, "--site", "truth", *arguments, check=None)
    assert done.returncode in (1, 2)
    assert words in done.stderr


def test_a_site_without_an_endpoint_serves_a_tiny_model(place):
    pytest.importorskip("transformers", reason="the embedded endpoint needs transformers")
    submit(place, "--site", "local", "--requests", "3", check=0, XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME", ""))
    rows = measured(place, "001")
    assert [row["output_tokens"] for row in rows] == [8, 8, 8]
    assert "server_start" in counters(place, "001")


def test_the_program_alone_says_what_is_wrong_in_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "hpcbench.inference"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_measurement_stops_after_its_time(place):
    with running(FAST) as server:
        site(place, "truth", server.url)
        began = time.monotonic()
        submit(place, "--site", "truth", "--requests", "100000", "--duration", "1")
        assert time.monotonic() - began < 60
    assert 5 < len(measured(place, "001")) < 1000
