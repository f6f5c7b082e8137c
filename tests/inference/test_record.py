"""Request records: what a row holds and what not, and a process that writes them whatever happens around it."""

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from asking import ask, run
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.errors import RunError, UsageError
from hpcbench.inference.decode import Answer, decode
from hpcbench.inference.load import Sent
from hpcbench.inference.record import FILE, About, Outlet, Recorder, row
from hpcbench.inference.server import Behaviour, running
from hpcbench.inference.wire import Exchange

ABOUT = About("p", "q", ("42",), "measured", 3)
SECOND = 1_000_000_000
TOKEN = "canary-that-nobody-may-see"


def exchange(*contents, usage=None, kind=b"text/event-stream", scheduled=0, status=200, **more):
    """An answer whose request began at 10 s, its chunks half a second apart."""
    chunks = [
        {"choices": [{"delta": content if isinstance(content, dict) else {"content": content}}]} for content in contents
    ]
    chunks += [{"choices": [], "usage": usage}] if usage else []
    pieces = [f"data: {json.dumps(each)}\n\n".encode() for each in chunks] + [b"data: [DONE]\n\n"]
    arrivals = [10 * SECOND + SECOND // 2 * (n + 1) for n in range(len(pieces))]
    headers = [(b"content-type", kind)]
    return Exchange(scheduled, 10 * SECOND, 0, arrivals[-1], status, headers, arrivals, pieces, **more)


def rowed(exchange, about=ABOUT, **sent):
    return row(Sent(7, exchange, **sent), about, decode(exchange), 1000.0)


def test_the_row_of_a_stream():
    found = rowed(exchange("the ", "answer ", "is 42", usage={"completion_tokens": 5, "prompt_tokens": 8}))
    assert found == {
        "record": "request", "request": 7, "prompt": "p", "question": "q", "phase": "measured", "block": 3,
        "status": "200", "error": "", "retries": 0, "started": 1010.0, "scheduled": 1010.0,
        "finished": 1012.5, "first_token": 1010.5, "ttft": 0.5, "tpot": 1.0 / 4, "last_token": 1011.5, "latency": 1.5,
        "output_tokens": 5, "tokens_counted_by": "server", "input_tokens": 8.0, "chunks": 3, "finish_reason": "",
        "model": "", "exact_match": 0.0, "f1": 0.5, "contains": 1.0, "arrivals_us": [500_000, 500_000, 500_000],
        "text": "the answer is 42", "reasoning": "",
    }  # fmt: skip


def test_what_an_answer_that_came_whole_does_not_have():
    body = {"choices": [{"message": {"content": "42"}}], "usage": {"completion_tokens": 3}}
    came = exchange(kind=b"application/json")
    came.pieces, came.arrivals = [json.dumps(body).encode()], [12 * SECOND]
    found = rowed(came)
    assert found["latency"] == 2.0
    assert found["output_tokens"] == 3
    assert not {"ttft", "ttfo", "tpot", "first_token", "arrivals_us"} & set(found)


def test_reasoning_has_a_time_to_the_first_output_of_its_own():
    found = rowed(exchange({"reasoning_content": "hm"}, {"reasoning": "so"}, "42"))
    assert (found["ttft"], found["ttfo"], found["reasoning"], found["text"]) == (0.5, 1.5, "hmso", "42")
    assert "ttfo" not in rowed(exchange("42"))
    assert "ttfo" not in rowed(exchange({"reasoning": "for ever"}))


@pytest.mark.parametrize("said", [None, 0, -3, True, "5", 10**400, [5]])
def test_tokens_are_counted_by_chunks_where_the_server_does_not_say(said):
    found = rowed(exchange("a", "b", "c", usage={"completion_tokens": said}))
    assert (found["output_tokens"], found["tokens_counted_by"], found["tpot"]) == (3, "chunks", 0.5)


def test_one_token_has_no_time_per_token():
    assert "tpot" not in rowed(exchange("a"))
    assert "tpot" not in rowed(exchange("a", "b", usage={"completion_tokens": 1}))


def test_the_schedule_and_what_was_paused():
    came = exchange("a", scheduled=7 * SECOND)
    assert (rowed(came)["schedule_delay"], rowed(came)["latency_from_schedule"]) == (3.0, 3.5)
    found = rowed(came, paused=2.5, retries=2)
    assert (found["schedule_delay"], found["latency"], found["latency_from_schedule"]) == (0.5, 0.5, 3.5)
    assert (found["paused"], found["retries"]) == (2.5, 2)
    assert not {"schedule_delay", "latency_from_schedule", "paused"} & set(rowed(exchange("a")))


def test_a_cut_stream_keeps_what_had_arrived_and_has_no_score():
    came = exchange("a", "b", failure="body: reset by the server in the middle of the answer")
    found = rowed(came)
    assert (found["error"], found["text"], found["chunks"], found["ttft"]) == (came.failure, "ab", 2, 0.5)
    assert "exact_match" not in found


def test_a_request_that_was_never_sent_has_no_times():
    found = row(Sent(1, Exchange(failure="connect: Connection refused")), ABOUT, Answer(failure="x"), 0.0)
    assert not {"started", "finished", "ttft", "latency", "text", "output_tokens"} & set(found)
    assert found["status"] == ""


@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=50))
def test_the_arrivals_add_up_to_the_truth(gaps):
    times, now = [], 10 * SECOND
    for gap in gaps:
        times.append(now := now + gap)
    arrivals = row(Sent(1, Exchange(started=10 * SECOND)), ABOUT, Answer(chunks=times, streamed=True), 0.0)[
        "arrivals_us"
    ]
    for position, time in enumerate(times):
        assert sum(arrivals[: position + 1]) == (time - 10 * SECOND) // 1000


ANY = st.none() | st.booleans() | st.floats() | st.integers(-(10**400), 10**400) | st.text(max_size=2)


@given(st.dictionaries(st.sampled_from(["completion_tokens", "prompt_tokens", "total_latency"]), ANY), ANY, ANY)
def test_a_row_can_be_written_of_whatever_a_server_says(usage, content, cached):
    usage["prompt_tokens_details"] = {"cached_tokens": cached}
    found = rowed(exchange({"content": content}, "a", usage=usage))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# The process that writes


def rows(folder):
    return [json.loads(line) for line in (folder / FILE).read_text(encoding="utf-8").splitlines()]


def hand_over(folder, *exchanges, meanwhile=None, lost=None, clients=1):
    """Record as a measurement does; `meanwhile` gets the recorder when the first of them is on disk."""

    async def work():
        async with Recorder(folder, clients) as recorder:
            outlets = [await Outlet.of(recorder.ends.pop(), lost or (lambda: None)) for _ in range(clients)]
            try:
                for number, each in enumerate(exchanges):
                    outlets[number % clients].put(Sent(number, each), ABOUT)
                    if meanwhile and number == 0:
                        while not (folder / FILE).exists() or not rows(folder):
                            await asyncio.sleep(0.01)
                        meanwhile(recorder, outlets[0])
                    await asyncio.sleep(0)
            finally:
                for outlet in outlets:
                    await outlet.close()

    run(work())


def test_what_goes_through_the_pipe_is_the_row_of_what_was_measured(tmp_path):
    with running(Behaviour(tokens_per_second=1000.0, first_token=(0.0, 0.0), reasoning=2)) as server:
        exchanges = ask(server.url, requests=5, at_once=5, max_tokens=20)
    hand_over(tmp_path, *exchanges)
    found = rows(tmp_path)
    epoch = found[0]["started"] - exchanges[0].started / 1e9
    for number, (line, each) in enumerate(zip(found, exchanges, strict=True)):
        here = row(Sent(number, each), ABOUT, decode(each), epoch)
        clock_times = ("started", "scheduled", "finished", "first_token", "last_token")
        assert {name: line[name] for name in clock_times} == pytest.approx({name: here[name] for name in clock_times})
        assert {**line, **dict.fromkeys(clock_times)} == {**here, **dict.fromkeys(clock_times)}


def test_several_clients_write_whole_lines_into_one_file(tmp_path):
    hand_over(tmp_path, *[exchange(f"{number} " * 40_000) for number in range(30)], clients=3)
    assert sorted(int(each["text"].split()[0]) for each in rows(tmp_path)) == list(range(30))
    assert all(len(each["text"].split()) == 40_000 for each in rows(tmp_path))


def test_a_pipe_that_no_client_took_keeps_nobody_waiting(tmp_path):
    async def work():
        async with Recorder(tmp_path, 2) as recorder:
            await (await Outlet.of(recorder.ends.pop(), lambda: None)).close()

    run(work())
    assert rows(tmp_path) == []


def test_letters_are_kept_as_they_are(tmp_path):
    hand_over(tmp_path, exchange("é 日本 🙂 \u2028 \x85 \x00", "\ud83d"))
    (found,) = rows(tmp_path)  # none of them ends the line
    assert found["text"] == "é 日本 🙂 \u2028 \x85 \x00\ufffd"
    assert "é 日本 🙂" in (tmp_path / FILE).read_text(encoding="utf-8")


def test_the_token_is_nowhere_in_the_file_nor_in_the_list_of_processes(tmp_path):
    said = exchange(TOKEN[:9], TOKEN[9:], {"reasoning": TOKEN}, secrets=(TOKEN,))
    refused = Exchange(status=401, pieces=[f"bad {TOKEN}".encode()], arrivals=[1], secrets=(TOKEN,))
    listed = []

    def look(*_):
        listed.append(subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout)

    hand_over(tmp_path, said, refused, meanwhile=look)
    (recorder,) = [line for line in listed[0].splitlines() if str(tmp_path) in line]
    assert "canary" not in recorder
    assert "canary" not in (tmp_path / FILE).read_text()
    assert "canary" not in repr(Exchange(secrets=(TOKEN,)))
    assert [each["error"] for each in rows(tmp_path)] == ["", "status 401: bad (secret)"]


def test_signals_to_the_whole_job_lose_no_request(tmp_path):
    def act(recorder, _):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(recorder._process.pid, number)

    hand_over(tmp_path, exchange("a"), exchange("b"), exchange("c"), meanwhile=act)
    assert [each["text"] for each in rows(tmp_path)] == ["a", "b", "c"]


CLIENT = """
import os, sys
from pathlib import Path
from test_record import hand_over, exchange

def act(recorder, outlet):
    outlet._transport.write((1 << 20).to_bytes(8, "little") + b"half of a request")
    os.kill(os.getpid(), 9)

hand_over(Path(sys.argv[1]), exchange("a"), meanwhile=act)
"""


def test_what_a_killed_client_had_measured_is_there(tmp_path):
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    done = subprocess.run([sys.executable, "-c", CLIENT, tmp_path], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [each["text"] for each in rows(tmp_path)] == ["a"]


def test_a_recorder_that_was_killed_is_told_and_hangs_nobody(tmp_path):
    lost = []
    large = [exchange(100_000 * "b")] * 50  # more than the pipe holds
    with pytest.raises(RunError, match="does not hold all requests: the process that writes it ended with status -9"):
        hand_over(
            tmp_path, exchange("a"), *large, lost=lambda: lost.append(1),
            meanwhile=lambda recorder, _: os.kill(recorder._process.pid, signal.SIGKILL),
        )  # fmt: skip
    assert [each["text"] for each in rows(tmp_path)] == ["a"]
    assert lost == [1]


def test_a_full_disk_is_told_and_no_half_of_a_line_is_left(tmp_path):
    def limit(recorder, _):  # on the size of its files: what a full disk or a quota does to it
        resource.prlimit(recorder._process.pid, resource.RLIMIT_FSIZE, (2000, 2000))

    with pytest.raises(RunError, match=r"does not hold all requests: requests\.jsonl: File too large"):
        hand_over(tmp_path, *[exchange(f"{n}") for n in range(20)], meanwhile=limit)
    found = [each["text"] for each in rows(tmp_path)]
    assert 0 < len(found) < 20
    assert found == [f"{n}" for n in range(len(found))]


def test_an_error_of_the_client_is_not_hidden_by_the_recorder_s(tmp_path):
    def act(recorder, _):
        os.kill(recorder._process.pid, signal.SIGKILL)
        raise UsageError("first")

    with pytest.raises(UsageError, match="first"):
        hand_over(tmp_path, exchange("a"), meanwhile=act)
