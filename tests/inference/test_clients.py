"""Several clients share a load: together they do what one would, and lose nothing when one of them goes."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import faults
import pytest
from toy import until

from hpcbench import benchmark
from hpcbench.errors import RunError
from hpcbench.inference.load import schedule
from hpcbench.inference.server import Behaviour, running

FAST = Behaviour(tokens_per_second=500.0, first_token=(0.01, 0.03))
SMALL = {"input_tokens": 32, "max_tokens": 8, "warmup": 1}
SLOW = Behaviour(tokens_per_second=20.0, first_token=(0.01, 0.03))


@contextmanager
def measuring(folder, url: str, **parameters):
    """Run a case's program in a folder; what it said is in the files that it would have as a case."""
    case = {
        "parameters": {**benchmark.load("chat").defaults(), **SMALL, **parameters},
        "endpoint": {"base_url": url, "model": "tiny"},
    }
    (folder / "case.json").write_text(json.dumps(case))
    argv = [sys.executable, "-m", "hpcbench.inference", "chat"]
    with (folder / "stdout.log").open("wb") as out, (folder / "stderr.log").open("wb") as errors:
        process = subprocess.Popen(argv, cwd=folder, stdout=out, stderr=errors)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def measured(folder, url: str, **parameters) -> int:
    with measuring(folder, url, **parameters) as process:
        return process.wait()


def rows(folder) -> list[dict]:
    found = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    return sorted((row for row in found if row["phase"] == "measured"), key=lambda row: row["request"])


def counters(folder) -> dict[str, float]:
    told = map(json.loads, (folder / "stdout.log").read_text().splitlines())
    return {row["name"]: row["value"] for row in told if row["record"] == "counter"}


def further(folder) -> list[int]:
    """Return the process ids of the clients beside the first."""
    listed = subprocess.run(["pgrep", "-f", "hpcbench.inference.client"], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split() if os.path.realpath(f"/proc/{pid}/cwd") == str(folder.resolve())]


def test_all_clients_together_send_each_request_once_and_keep_all_streams_full(tmp_path):
    with running(FAST) as server:
        assert measured(tmp_path, server.url, concurrency=7, requests=60, clients=3) == 0
        truth = server.truth()
    assert [row["request"] for row in rows(tmp_path)] == list(range(1, 61))
    assert len({told["prompt"] for told in truth}) == 62  # with the question whether it answers, and the warm-up
    changes = sorted([(told["received"], 1) for told in truth] + [(told["last"], -1) for told in truth])
    at_once = most = 0
    for _, change in changes:
        at_once += change
        most = max(most, at_once)
    assert most == 7
    found = counters(tmp_path)
    assert (found["clients"], found["requests"], found["failed_requests"]) == (3, 60, 0)
    assert found["connections"] >= 7


def test_clients_share_a_schedule(tmp_path):
    with running(FAST) as server:
        assert measured(tmp_path, server.url, pattern="poisson", rate=100.0, requests=40, clients=2, seed=3) == 0
    due = [row["scheduled"] for row in rows(tmp_path)]
    meant = schedule("poisson", 40, 100.0, 3 + 1)
    assert [time - due[0] for time in due] == pytest.approx(meant, abs=1e-4)


def test_too_many_failures_of_one_client_end_them_all(tmp_path):
    with faults.serving() as server:
        assert measured(tmp_path, server.at("one-in-3"), requests=3000, concurrency=4, clients=2, max_failures=0.2) == 4
    assert 20 <= len(rows(tmp_path)) < 3000
    assert "requests failed" in (tmp_path / "stdout.log").read_text()
    assert not any("stopped" in row["error"] for row in rows(tmp_path))  # what was in flight came to its end


def test_what_was_measured_before_a_word_to_stop_stays_and_nobody_is_left(tmp_path):
    with running(SLOW) as server, measuring(tmp_path, server.url, requests=1000, concurrency=6, clients=3) as process:
        until(lambda: (tmp_path / "requests.jsonl").exists() and len(rows(tmp_path)) >= 12, 60)
        assert len(further(tmp_path)) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert further(tmp_path) == []
    done = [row for row in rows(tmp_path) if not row["error"]]
    assert 12 <= len(done) < 1000


def test_further_clients_end_with_the_first_one_however_it_goes(tmp_path):
    with running(SLOW) as server, measuring(tmp_path, server.url, requests=1000, concurrency=6, clients=3) as process:
        until(lambda: (tmp_path / "requests.jsonl").exists() and len(rows(tmp_path)) >= 6, 60)
        process.kill()
        until(lambda: not further(tmp_path), 30)


def test_a_client_that_is_killed_is_told_and_what_the_others_measured_stays(tmp_path):
    with running(SLOW) as server, measuring(tmp_path, server.url, requests=1000, concurrency=6, clients=3) as process:
        until(lambda: (tmp_path / "requests.jsonl").exists() and len(rows(tmp_path)) >= 12, 60)
        os.kill(further(tmp_path)[0], signal.SIGKILL)
        assert process.wait(30) == RunError.exit_code
        assert further(tmp_path) == []
    assert "a client ended with status -9" in (tmp_path / "stderr.log").read_text()
    assert len([row for row in rows(tmp_path) if not row["error"]]) >= 12
