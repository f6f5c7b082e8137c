"""Several clients share a load: together they do what one would, and lose nothing when one of them goes."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import faults
import pytest
from toy import until

from hpcbench import benchmark
from hpcbench.errors import RunError
from hpcbench.inference import prompts
from hpcbench.inference.load import schedule
from hpcbench.inference.measure import _dealt, _Measurement
from hpcbench.inference.server import Behaviour, running
from hpcbench.inference.settings import Settings
from hpcbench.inference.wire import clock
from hpcbench.site import Endpoint

FAST = Behaviour(tokens_per_second=500.0, first_token=(0.01, 0.03))
URL = "http://127.0.0.1:9/v1"  # nobody answers there
SMALL = {"input_tokens": 32, "max_tokens": 8, "warmup": 1}
SLOW = Behaviour(tokens_per_second=20.0, first_token=(0.01, 0.03))


@contextmanager
def measuring(folder, url: str, token: dict | None = None, python_path="", **parameters):
    """Run a case's program in a folder; what it said is in the files that it would have as a case."""
    case = {
        "parameters": {**benchmark.load("chat").defaults(), **SMALL, **parameters},
        "endpoint": {"base_url": url, "model": "tiny", "token": token},
    }
    (folder / "case.json").write_text(json.dumps(case))
    argv = [sys.executable, "-m", "hpcbench.inference", "chat"]
    with (folder / "stdout.log").open("wb") as out, (folder / "stderr.log").open("wb") as errors:
        environment = {**os.environ, "PYTHONPATH": str(python_path)}
        process = subprocess.Popen(argv, cwd=folder, stdout=out, stderr=errors, env=environment)
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
    listed = subprocess.run(["pgrep", "-f", "hpcbench.inference.further"], capture_output=True, text=True, check=False)
    found = []
    for pid in map(int, listed.stdout.split()):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            found += [pid] if Path(f"/proc/{pid}/cwd").readlink() == folder.resolve() else []
    return found


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


def test_all_streams_stay_full_though_one_client_has_more_of_them(tmp_path):
    with running(SLOW) as server:
        assert measured(tmp_path, server.url, concurrency=3, requests=24, clients=2) == 0
    sent = rows(tmp_path)
    whole = max(row["last_token"] for row in sent) - min(row["started"] for row in sent)
    in_flight = sum(row["latency"] for row in sent) / whole
    assert in_flight > 0.7 * 3  # two thirds, if each client had as many requests


def test_requests_are_dealt_to_streams():
    """Each stream gets as many requests as every other, however the streams fall to clients."""
    assert _dealt(9, 3, 2) == [[0, 2, 3, 5, 6, 8], [1, 4, 7]]
    assert _dealt(7, 1, 3) == [[0, 3, 6], [1, 4], [2, 5]]  # at times of their own
    assert sorted(chain.from_iterable(_dealt(100, 7, 3))) == list(range(100))


@pytest.mark.parametrize(("cores", "load", "clients"), [
    (16, {"concurrency": 512}, 1), (16, {"concurrency": 513}, 2), (16, {"concurrency": 100_000}, 8),
    (2, {"concurrency": 100_000}, 1), (1, {"concurrency": 1}, 1), (16, {"concurrency": 2, "clients": 4}, 2),
    (16, {"pattern": "poisson", "rate": 1600.0}, 4), (16, {"pattern": "constant", "rate": 1.0, "clients": 4}, 4),
])  # fmt: skip
def test_how_many_clients_a_load_needs(monkeypatch, cores, load, clients):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert Settings.of({**benchmark.load("chat").defaults(), **load}).processes == clients


def test_the_duration_holds_for_all_clients(tmp_path):
    with running(SLOW) as server:
        assert measured(tmp_path, server.url, requests=3000, concurrency=4, clients=2, duration=1.5) == 0
    assert 4 <= len(rows(tmp_path)) < 1000


def test_all_clients_send_what_a_strict_gateway_accepts(tmp_path):
    with faults.serving() as server:
        assert measured(tmp_path, server.at("strict"), requests=12, concurrency=4, clients=2) == 0
    assert [row["error"] for row in rows(tmp_path)] == [""] * 12


def test_a_client_that_fails_ends_the_case_and_what_it_prints_is_no_answer(tmp_path):
    """Its token command gives none for the second of the clients: no further client may be waited for without end."""
    count = tmp_path / "count"
    command = tmp_path / "token"
    command.write_text(
        f"#!/bin/sh\necho x >> {count}\n[ $(wc -l < {count}) -gt 1 ] && printf '\\377' || echo secret-token\n"
    )
    command.chmod(0o755)
    (tmp_path / "sitecustomize.py").write_text("print('welcome')\nprint('[1]')\n")
    with (
        running(FAST) as server,
        measuring(
            tmp_path, server.url, token={"command": [str(command)]}, python_path=tmp_path, concurrency=4, clients=2
        ) as process,
    ):
        assert process.wait(60) == RunError.exit_code
    said = (tmp_path / "stderr.log").read_text()
    assert "a further client: " in said
    assert "is not a token alone" in said


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


class Slow:
    """In place of turns: another's takes a while each time."""

    async def mine(self, _):
        await asyncio.sleep(0.3)

    def next(self):
        pass


class Counting:
    """In place of a client: each block takes a tenth of a second."""

    blocks = 0

    async def prepare(self, work):
        pass

    async def send(self, at, until):
        assert until > clock()
        await asyncio.sleep(0.1)
        self.blocks += 1


def test_another_s_turn_takes_none_of_the_duration():
    settings = Settings.of({**benchmark.load("chat").defaults(), "warmup": 0, "duration": 1.0})
    asked = prompts.make("chat", {"seed": 1, "input_tokens": 32}, 50)
    where = Endpoint(base_url=URL, model="m")
    measurement = _Measurement("chat", where, settings, asked, {3: 7}, Slow())
    measurement._senders = [sender := Counting()]
    blocks = asyncio.run(measurement._send_by_turns())
    assert 5 <= sender.blocks <= 10  # two, if the others' turns were its own
    assert blocks == range(8, 8 + sender.blocks)  # after those of an attempt before
