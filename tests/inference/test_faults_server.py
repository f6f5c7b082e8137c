"""That the fault server does what its table says, seen with a plain HTTP client."""

import gzip
import http.client
import json
import re
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import closing

import faults
import pytest
from toy import until


@pytest.fixture(scope="module")
def server():
    with faults.serving() as server:
        yield server


def ask(server, name, *, stream=True, prompt="hi"):
    """Return status, headers and body of an answer."""
    body = {"model": name, "messages": [{"role": "user", "content": prompt}], "stream": stream}
    body["stream_options"] = {"include_usage": True}
    with closing(http.client.HTTPConnection(server.root.split("/")[2], timeout=20)) as connection:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": "Bearer canary"})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


WHOLE = (
    "close-idle", "error-data", "error-event", "html", "invalid-json", "large", "many", "no-done", "no-usage",
    "reasoning", "slow-headers", "usage-null", "usage-unasked",
)  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_is_whole_for_http(server, name):
    assert ask(server, f"{name}-2")[0] == 200


@pytest.mark.parametrize("name", ["cut-2", "half-body", "hang-up", "reset-2"])
def test_an_answer_that_breaks_off(server, name):
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        ask(server, name)


def test_the_tokens_arrive_in_every_form_of_a_stream(server):
    for name in ("ok", "packed", "split", "dribble", "comments", "crlf", "no-space", "empty", "close-delimited"):
        _, _, body = ask(server, name)
        text = re.findall(r'"content": "(.*?)"', body.decode())
        assert "".join(text) == "".join(faults.TOKENS), name


def test_attempts_are_counted_for_each_prompt(server):
    assert [ask(server, "retry-after-2", prompt="a")[0] for _ in range(3)] == [429, 429, 200]
    assert ask(server, "retry-after-2", prompt="b")[1]["Retry-After"] == "1"
    assert [ask(server, "503-1", prompt="a")[0] for _ in range(2)] == [503, 200]
    assert [ask(server, "one-in-2", prompt="a")[0] for _ in range(4)] == [200, 500, 200, 500]


def test_some_answers_are_no_stream(server):
    assert [ask(server, name)[0] for name in ("status-408", "error-text", "echo")] == [408, 502, 401]
    assert "Retry-After" in ask(server, "retry-after-date-1", prompt="a")[1]
    _, headers, body = ask(server, "gzip", stream=False)
    assert headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(body))["choices"][0]["message"]["content"] == "".join(faults.TOKENS)
    assert json.loads(ask(server, "json")[2])["usage"] == faults.USAGE
    assert b"Bearer canary" in ask(server, "echo")[2]
    assert ask(server, "redirect-307")[1]["Location"] == "/ok/v1/chat/completions"
    assert ask(server, "redirect-302")[1]["Location"].startswith("http://localhost:")
    assert ask(server, "no-such-fault")[0] == 404


def test_a_path_chooses_too_and_requests_are_kept(server):
    with pytest.raises(urllib.error.HTTPError, match="418"):
        urllib.request.urlopen(server.at("status-418") + "/chat/completions", b'{"model": "ok"}')
    assert server.requests[-1]["path"] == "/status-418/v1/chat/completions"
    assert server.requests[-1]["body"] == {"model": "ok"}


@pytest.mark.parametrize("name", ["stall-1", "silent"])
def test_a_silent_server_can_be_ended(name):
    with faults.serving() as server, socket.create_connection(server.server_address, timeout=20) as client:
        client.sendall(b"POST /%b/v1/x HTTP/1.1\r\nContent-Length: 15\r\n\r\n" % name.encode() + b'{"stream":true}')
        received = b" w0" if name == "silent" else b""
        while b" w0" not in received:
            received += client.recv(1 << 16)
        until(lambda: server.requests)
        server.die()
        with pytest.raises(ConnectionResetError):
            client.recv(1 << 16)


def test_a_server_that_dies_takes_all_with_it():
    with faults.serving() as server:
        assert ask(server, "dies-2")[0] == 200
        with pytest.raises(ConnectionResetError):
            ask(server, "dies-2")
        with pytest.raises(ConnectionRefusedError):
            ask(server, "ok")


def test_tls_is_by_a_certificate_that_only_who_has_it_trusts():
    with faults.serving(tls=True) as server:
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(server.url + "/models")
        trusting = ssl.create_default_context(cafile=server.certificate)
        with urllib.request.urlopen(server.url + "/models", context=trusting) as answer:
            assert answer.status == 200


def test_it_can_be_reached_by_ipv6_alone():
    with faults.serving(host="::1") as server:
        with urllib.request.urlopen(server.url + "/models") as answer:
            assert answer.status == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.server_address[1]))
