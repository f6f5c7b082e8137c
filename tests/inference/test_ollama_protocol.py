"""Ollama's own protocol, by which it tells its own times; a server that answers as Ollama's documentation shows."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from toy import hpcbench

from hpcbench.inference.decode import decode
from hpcbench.inference.record import About, Sent, row
from hpcbench.inference.wire import Exchange

ABOUT = About("p", "q", (), "measured")
LAST = {
    "model": "tiny", "done": True, "done_reason": "stop", "message": {"role": "assistant", "content": ""},
    "total_duration": 174560334, "load_duration": 101397084, "prompt_eval_count": 11, "prompt_eval_duration": 13074791,
    "eval_count": 3, "eval_duration": 52479709,
}  # fmt: skip


def said(content: str, **more) -> dict:
    return {"model": "tiny", "message": {"role": "assistant", "content": content, **more}, "done": False}


def answered(*lines: dict, kind: str = "application/x-ndjson", start: int = 10**9, every: int = 10**8):
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    arrivals = [start + number * every for number in range(1, len(pieces) + 1)]
    headers = [(b"Content-Type", kind.encode())]
    return Exchange(started=start, status=200, headers=headers, arrivals=arrivals, pieces=pieces, finished=arrivals[-1])


def test_each_line_is_a_chunk_and_the_last_tells_its_own_times():
    exchange = answered(said("", thinking="so"), said("one "), said("two"), LAST)
    answer = decode(exchange)
    assert (answer.text, answer.reasoning, answer.failure, answer.finish_reason) == ("one two", "so", "", "stop")
    found = row(Sent(1, exchange), ABOUT, answer, 0.0)
    assert (found["ttft"], found["ttfo"], found["latency"]) == pytest.approx((0.1, 0.2, 0.3))
    assert (found["input_tokens"], found["output_tokens"], found["tokens_counted_by"]) == (11, 3, "server")
    times = {name: found[name] for name in found if name.startswith("server_")}
    assert times == pytest.approx({
        "server_latency": 0.174560334, "server_load_time": 0.101397084, "server_prefill_time": 0.013074791,
        "server_decode_time": 0.052479709,
    })  # fmt: skip


def test_an_answer_that_is_not_streamed():
    answer = decode(answered({**LAST, "message": {"role": "assistant", "content": "one"}}, kind="application/json"))
    assert (answer.text, answer.streamed, answer.failure) == ("one", False, "")
    assert answer.server["server_latency"] == pytest.approx(0.174560334)


@pytest.mark.parametrize(("lines", "failure"), [
    ([said("one "), {"error": "model runner has stopped"}], "stream: model runner has stopped"),
    ([said("one ")], "stream: it ends in the middle, before done"),
    ([LAST], "empty: the answer holds no text"),
])  # fmt: skip
def test_answers_that_are_not_whole(lines, failure):
    assert decode(answered(*lines)).failure == failure


def test_llama_cpp_tells_its_times_in_milliseconds():
    said = {
        "choices": [{"message": {"content": "one"}, "finish_reason": "stop"}],
        "timings": {"prompt_n": 9, "prompt_ms": 20.5, "predicted_n": 3, "predicted_ms": 79.5},
    }
    answer = decode(answered(said, kind="application/json"))
    expected = {"server_prefill_time": 0.0205, "server_decode_time": 0.0795, "server_latency": 0.1}
    assert answer.server == pytest.approx(expected)


@contextmanager
def ollama():
    """Serve /api/chat; yields the address that its OpenAI protocol would have, and the bodies that came."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/api/chat"
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-ndjson")
            self.end_headers()
            with suppress(ConnectionError):  # the question whether so many tokens are given is not heard to its end
                for line in (said("one "), said("two "), said("three"), LAST):
                    self.wfile.write(json.dumps(line).encode() + b"\n")
                    self.wfile.flush()
                    time.sleep(0.07)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()


def test_it_is_asked_in_its_own_words_and_its_times_stand_beside_the_client_s(tmp_path):
    (tmp_path / "sites").mkdir()
    with ollama() as (url, bodies):
        (tmp_path / "sites" / "mine.yaml").write_text(
            f"title: Mine\nendpoint: {{api: ollama, base_url: '{url}', model: tiny}}\n"
        )
        hpcbench("submit", "--site", "mine", "--benchmark", "chat", "--input-tokens", "32", "--max-tokens", "40",
                 "--requests", "5", "--name", "r", "--wait", cwd=tmp_path)  # fmt: skip
    assert bodies[-1].keys() == {"model", "messages", "stream", "options"}
    assert bodies[-1]["options"] == {"num_predict": 40, "temperature": 0.0, "seed": 1}
    told = map(json.loads, (tmp_path / "logs" / "r" / "001" / "stdout.log").read_text().splitlines())
    found = {each["name"]: each["value"] for each in told if each["record"] == "counter"}
    assert (found["requests"], found["failed_requests"]) == (5, 0)
    assert found["server_latency_mean"] == pytest.approx(0.174560334)
    assert found["network_and_gateway_mean"] == pytest.approx(found["latency_mean"] - 0.174560334)
