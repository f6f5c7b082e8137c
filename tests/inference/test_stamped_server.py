"""The server with stamped sends as a process of its own, and clients on real sockets."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import until

from hpcbench.errors import HpcbenchError, UsageError
from hpcbench.inference.server import Behaviour, prompt_key, running
from hpcbench.inference.server.requests import requests

FAST = {"tokens_per_second": 1000.0, "first_token": (0.0, 0.02)}


@contextmanager
def serving(**behaviour):
    """Serve, and give the server and a way to ask it: (status, body) of a POST, all over one connection."""
    with running(Behaviour(**{**FAST, **behaviour})) as server, ExitStack() as stack:
        connection = stack.enter_context(closing(http.client.HTTPConnection(server.url.split("/")[2], timeout=30)))

        def ask(path="/v1/chat/completions", headers=None, **body):
            connection.request("POST", path, json.dumps(body), headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()

        yield server, ask


def user(text):
    return [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]


def events(stream):
    """Read the events of a whole stream; the last must be [DONE]."""
    *data, done, rest = stream.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in data]


def arrivals(server, text, tokens):
    """Stream an answer over a socket of its own: when (ns) each piece came, and how many tokens were in it."""
    host, port = server.url.split("/")[2].split(":")
    body = json.dumps({"messages": user(text), "stream": True, "max_tokens": tokens}).encode()
    came = []
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += (piece := client.recv(1 << 16))
            came.append((time.monotonic_ns(), piece.count(b'content": " w')))
    return [(at, count) for at, count in came if count]


def exchange(server, request):
    """Send bytes and read until the server ends the connection."""
    host, port = server.url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=30) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_a_stream_has_a_role_then_a_chunk_a_token_then_the_reason_the_usage_and_done():
    with serving() as (_, ask):
        wanted = {"model": "m", "stream": True, "max_tokens": 5, "stream_options": {"include_usage": True}}
        status, stream = ask(messages=user("one two three"), **wanted)
        role, *tokens, reason, usage = events(stream)
        assert status == 200
        assert role["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        assert [each["choices"][0]["delta"] for each in tokens] == [{"content": f" w00{n}"} for n in range(5)]
        assert reason["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
        assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10}
        assert {(each["id"], each["object"], each["model"]) for each in (role, *tokens, reason, usage)} == {
            (role["id"], "chat.completion.chunk", "m")
        }
        reason = events(ask(messages=user("again"), stream=True)[1])[-1]  # no usage, as none was asked for
        assert reason["choices"][0]["finish_reason"] == "stop"


def test_an_answer_that_is_not_streamed():
    with serving() as (server, ask):
        body = json.loads(ask(messages=user("hi"), max_completion_tokens=2)[1])
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"] == {"role": "assistant", "content": " w000 w001"}
        assert body["usage"]["completion_tokens"] == 2
        (truth,) = server.truth()
        assert truth["sends"] == [truth["first"]] == [truth["last"]]


def test_completions_take_a_prompt():
    with serving() as (server, ask):
        body = json.loads(ask("/v1/completions", prompt="once upon", max_tokens=2)[1])
        assert (body["object"], body["choices"][0]["text"]) == ("text_completion", " w000 w001")
        first, second, reason = events(ask("/v1/completions", prompt=["once upon"], max_tokens=2, stream=True)[1])
        assert [each["choices"][0]["text"] for each in (first, second, reason)] == [" w000", " w001", ""]
        assert {each["prompt"] for each in server.truth()} == {prompt_key("once upon")}


def test_the_truth_is_before_each_arrival():
    with serving() as (server, _):
        came = arrivals(server, "hi", 30)
        (truth,) = server.truth()
        assert truth["prompt"] == prompt_key("hi")
        assert len(truth["sends"]) == sum(count for _, count in came) == 30
        assert truth["sends"] == sorted(truth["sends"])
        assert truth["received"] <= truth["first"] == truth["sends"][0]
        assert truth["last"] == truth["sends"][-1]
        sent = 0
        for at, count in came:
            sent += count
            assert truth["sends"][sent - 1] <= at
        assert server.truth(sends=False) == [{name: truth[name] for name in truth if name != "sends"}]
        server.reset()
        assert server.truth() == []


def test_sends_are_due_by_the_schedule_and_the_prompt_draws_the_first():
    with serving(tokens_per_second=500.0, first_token=(0.01, 0.03)) as (server, ask):
        for text in ("a", "b", "a"):
            ask(messages=user(text), stream=True, max_tokens=10)
        for each in server.truth():
            wait = 1e7 + 2e7 * int(each["prompt"], 16) / 16**16
            due = [each["received"] + wait + token * 2e6 - 1 for token in range(10)]
            assert all(sent >= then for sent, then in zip(each["sends"], due, strict=True))


def test_requests_wait_for_each_other_where_they_are_serialised():
    with serving(serialise=True) as (server, _):
        clients = [threading.Thread(target=arrivals, args=(server, str(n), 20)) for n in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        told = server.truth()
        assert len(told) == 4
        assert all(one["last"] <= other["first"] for one, other in pairwise(told))


def test_a_client_that_leaves_lets_the_next_begin():
    with serving(serialise=True, tokens_per_second=1.0) as (server, _):
        body = json.dumps({"messages": user("first"), "stream": True}).encode()
        host, port = server.url.split("/")[2].split(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            until(server.truth)
            second = threading.Thread(target=arrivals, args=(server, "second", 1))
            second.start()
        second.join()
        assert [len(each["sends"]) <= 1 for each in server.truth()] == [True, True]


def test_a_relay_groups_chunks():
    with serving(relay=True) as (server, _):
        came = arrivals(server, "hi", 45)
        (truth,) = server.truth()
        groups = [truth["sends"].count(at) for at in sorted(set(truth["sends"]))]
        assert groups == [20, 20, 5]
        assert sum(count for _, count in came) == 45


def test_a_slow_stream_is_relayed_every_half_second():
    with serving(relay=True, tokens_per_second=10.0, first_token=(0.0, 0.0)) as (server, _):
        arrivals(server, "hi", 8)
        (truth,) = server.truth()
        assert [truth["sends"].count(at) for at in sorted(set(truth["sends"]))] == [6, 2]


def test_the_first_tokens_may_be_reasoning():
    with serving(reasoning=2) as (_, ask):
        _, *tokens, _ = events(ask(messages=user("hi"), stream=True, max_tokens=3)[1])
        assert [list(each["choices"][0]["delta"]) for each in tokens] == [
            ["reasoning_content"], ["reasoning_content"], ["content"],
        ]  # fmt: skip
        message = json.loads(ask(messages=user("hi"), max_tokens=1)[1])["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "", "reasoning_content": " w000"}


def test_a_strict_server_names_the_fields_that_it_refuses():
    with serving(strict=True) as (_, ask):
        status, body = ask(messages=user("hi"), top_k=1, ignore_eos=True)
        assert status == 422
        assert json.loads(body)["detail"] == [
            {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}
            for name in ("ignore_eos", "top_k")
        ]
        assert ask(messages=user("hi"), model="m", temperature=0, seed=1, max_tokens=1)[0] == 200


def test_a_cold_server_says_so_until_it_is_warm():
    with serving(cold=0.2) as (_, ask):
        status, body = ask(messages=user("hi"), max_tokens=1)
        assert (status, "online but not ready to receive tasks" in json.loads(body)["error"]["message"]) == (503, True)
        until(lambda: ask(messages=user("hi"), max_tokens=1)[0] == 200)


def test_a_server_tells_its_own_timings():
    with serving(server_timings=True) as (server, ask):
        ask(messages=user("hi"), stream=True, max_tokens=3)
        body = {"messages": user("hi"), "stream": True, "max_tokens": 3, "stream_options": {"include_usage": True}}
        usage = events(ask(**body)[1])[-1]["usage"]
        truth = server.truth()[-1]
        assert usage["time_to_first_token"] == (truth["first"] - truth["received"]) / 1e9
        assert usage["total_latency"] == (truth["last"] - truth["received"]) / 1e9


def test_a_token_is_asked_for(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "a-token-for-tests")
    with serving(token="MY_TOKEN") as (server, ask):
        body = {"messages": user("hi"), "max_tokens": 1}
        assert ask(**body)[0] == 401
        assert ask(headers={"Authorization": "Bearer another"}, **body)[0] == 401
        assert ask(headers={"Authorization": "Bearer a-token-for-tests"}, **body)[0] == 200
        assert len(server.truth()) == 1


def test_what_is_no_request_is_refused_and_the_server_goes_on():
    with serving() as (server, ask):
        for request, status in [
            (b"nonsense\r\n\r\n", b"400"),
            (b"GET / HTTP/1.0\r\n\r\n", b"400"),
            (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
            (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
            (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", b"400"),
            (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\nmore", b"200"),
            (b"GET /health HTTP/1.1\r\nlong: " + b"x" * (1 << 17), b"431"),
        ]:
            assert exchange(server, request)[9:12] == status
        for body, status in [({}, 400), ({"messages": [1]}, 400), ({"messages": user("a"), "max_tokens": "x"}, 400)]:
            assert ask(**body)[0] == status
        assert ask("/v1/elsewhere")[0] == 404


def test_a_body_may_come_in_chunks_and_requests_one_behind_the_other():
    with serving() as (server, _):
        body = json.dumps({"messages": user("hi"), "max_tokens": 2}).encode()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:7], body[7:]))
        head = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        models = b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"
        said = exchange(server, head + chunks + b"0\r\n\r\n" + models)
        assert said.count(b"HTTP/1.1 200 OK") == 2
        assert said.index(b" w000 w001") < said.index(b'"object": "list"')


@given(st.lists(st.integers(1, 60), max_size=20))
def test_requests_are_the_same_in_whatever_pieces_they_come(sizes):
    sent = (
        b"POST /a?b=c HTTP/1.1\r\nContent-Length: 3\r\nHost:  there \r\n\r\nabc"
        b"POST /d HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"2;x=y\r\nde\r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
        b"GET /e HTTP/1.1\r\n\r\n"
    )
    inbox, found = bytearray(), []
    taken = requests(inbox)
    for size in (*sizes, len(sent)):
        inbox += sent[:size]
        sent = sent[size:]
        while (request := next(taken)) is not None:
            found.append((request.method, request.path, request.query, request.headers.get("host"), request.body))
    assert found == [
        ("POST", "/a", "b=c", "there", b"abc"),
        ("POST", "/d", "", None, b"de0123456789"),
        ("GET", "/e", "", None, b""),
    ]


def test_a_client_that_reads_late_gets_all():
    with serving(tokens_per_second=1e6) as (server, _):
        body = json.dumps({"messages": user("hi"), "stream": True, "max_tokens": 50_000}).encode()
        host, port = server.url.split("/")[2].split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            until(lambda: server.truth(sends=False))
            received = bytearray()
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += client.recv(1 << 16)
        assert received.count(b'content": " w') == 50_000
        assert len(server.truth()[0]["sends"]) == 50_000


def test_the_server_ends_with_its_parent():
    code = """
import os
from hpcbench.inference.server import running
with running() as server:
    print(server.url, flush=True)
    os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    host, port = done.stdout.split("/")[2].split(":")

    def closed():
        with socket.socket() as client:
            return client.connect_ex((host, int(port))) != 0

    until(closed)


def test_what_cannot_be_is_said(capfd):
    for wrong in ({"tokens_per_second": 0.0}, {"first_token": (2.0, 1.0)}, {"cold": -1.0}):
        with pytest.raises(UsageError):
            Behaviour(**wrong)
    assert "NO_SUCH" not in os.environ
    with pytest.raises(HpcbenchError, match="did not start"), running(Behaviour(token="NO_SUCH")):
        pass
    assert "NO_SUCH is not set" in capfd.readouterr().err
