"""The client's HTTP against servers and proxies that behave as they do in the field, on real sockets."""

import asyncio
import gc
import json
import os
import socket
import struct
import threading
import time
from contextlib import closing, contextmanager
from itertools import pairwise

import faults
import pytest
from asking import BODY, answer, ask, run, said, saying, whole
from faults import TOKENS

from hpcbench.errors import ConfigError
from hpcbench.inference import wire as wires
from hpcbench.inference.decode import decode
from hpcbench.inference.server import Behaviour, prompt_key, running
from hpcbench.inference.wire import Wire

TEXT = "".join(TOKENS)
TOKEN = 'cana/ry"that-nobody-may-see'


@pytest.fixture(scope="module")
def server():
    with faults.serving() as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


BROKEN = {  # behaviour: what is said of it, how many chunks had arrived
    "hang-up": ("answer: reset by the server before it began", 0),
    "reset-2": ("body: reset by the server in the middle of the answer", 2),
    "cut-0": ("body: closed by the server in the middle of the answer", 0),
    "cut-3": ("body: closed by the server in the middle of the answer", 3),
    "half-body": ("body: closed by the server in the middle of the answer", 0),
    "dies-1": ("answer: reset by the server before it began", 0),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_breaks_off_is_a_failure_with_what_had_arrived(name):
    with faults.serving() as server:
        (exchange,) = ask(server.at(name))
        broken = decode(exchange)
        assert (broken.failure, len(broken.chunks)) == BROKEN[name]
        assert broken.text == "".join(TOKENS[: len(broken.chunks)])
        assert exchange.started <= exchange.finished


@pytest.mark.parametrize(("name", "chunks"), [("silent", 0), ("stall-2", 2)])
def test_an_answer_that_does_not_come_ends_with_the_timeout(server, name, chunks):
    (exchange,) = ask(server.at(name), timeout=0.3)
    assert exchange.failure == "timeout: no end within 0.3 s"
    assert decode(exchange).text == "".join(TOKENS[:chunks])


def test_headers_that_come_byte_by_byte(server):
    assert answer(server.at("slow-headers")).text == TEXT


def test_a_server_that_dies_half_way_leaves_no_request_without_an_end():
    with faults.serving() as server:
        found = [decode(each) for each in ask(server.at("dies-20"), requests=60, at_once=6)]
    assert len(found) == 60
    good = [each for each in found if not each.failure]
    assert len(good) <= 19
    assert {each.text for each in good} == {TEXT}
    assert {each.failure.partition(":")[0] for each in found if each.failure} <= {"answer", "body", "connect"}


def test_who_cannot_be_reached_is_told_apart():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    assert answer(f"http://127.0.0.1:{port}/v1").failure == "connect: Connection refused"
    assert answer("http://no-such-host.invalid/v1").failure.startswith("dns: no-such-host.invalid: ")
    assert answer("http://a..b/v1").failure.startswith("dns: a..b: ")
    with saying(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        assert answer(url.replace("http:", "https:")).failure.startswith("tls: ")


@pytest.mark.parametrize("url", ["ftp://host/v1", "http://", "host:8000", "http://host:port/v1", "http://hö.de/v1"])
def test_an_address_that_is_none(url):
    with pytest.raises(ConfigError, match="base_url"):
        ask(url)


def test_tls_is_verified(monkeypatch):
    with faults.serving(tls=True) as server:
        assert answer(server.url).failure == "tls: self-signed certificate"
        assert server.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(server.certificate))
        found = ask(server.url, requests=3)
        assert [decode(each).text for each in found] == 3 * [TEXT]
        assert [each.connected > 0 for each in found] == [True, False, False]


def test_ipv6_only():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with faults.serving(host="::1") as server:
        assert answer(server.url).text == TEXT
        assert server.requests[0]["headers"]["host"] == server.root.removeprefix("http://")


def test_a_connection_is_used_again_and_again(server):
    opened = []
    found = ask(server.url, requests=20, then=lambda wire: opened.append(wire.opened))
    assert [bool(each.connected) for each in found] == [True, *19 * [False]]
    assert opened == [1]
    assert {decode(each).text for each in found} == {TEXT}


def test_a_connection_that_the_server_closed_in_between_costs_no_request(server):
    found = ask(server.at("close-idle"), requests=50, at_once=2)
    assert [decode(each).failure for each in found] == 50 * [""]


def test_a_request_whose_connection_was_gone_is_sent_again_once_and_that_is_seen():
    def reset_at_the_next(client):
        client.recv(1 << 16)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with saying(whole(said("a")), after=reset_at_the_next) as url:
        first, second, third = ask(url, requests=3)
    assert [decode(each).text for each in (first, second, third)] == ["a", "a", "a"]
    assert (first.resent, second.resent > 0, third.resent > 0) == (0, True, True)


def test_an_answer_that_had_begun_is_never_asked_for_again():
    with saying(whole(said("a")), b"HTTP/1.1 200 OK\r\nContent-") as url:
        _, second = ask(url, requests=2)
    assert second.failure == "answer: closed by the server in the middle of its head"
    assert (second.connected, second.resent) == (0, 0)


def test_all_requests_are_in_flight_at_once_without_a_cap():
    with running(Behaviour(tokens_per_second=200.0, first_token=(1.0, 1.0))) as server:
        found = ask(server.url, requests=256, at_once=256, max_tokens=5)
        assert [decode(each).failure for each in found] == 256 * [""]
        assert len({each.arrivals[0] for each in found}) > 1
        truth = server.truth()
        assert max(each["received"] for each in truth) < min(each["first"] for each in truth)


def test_stamps_are_those_of_the_server_that_stamps_its_sends():
    with running(Behaviour(tokens_per_second=100.0, first_token=(0.05, 0.05))) as server:
        (exchange,) = ask(server.url, messages=[{"role": "user", "content": "when?"}], max_tokens=20)
        (truth,) = server.truth()
    chunks = decode(exchange).chunks
    assert truth["prompt"] == prompt_key("when?")
    assert exchange.started < truth["received"]
    assert all(sent < came for sent, came in zip(truth["sends"], chunks, strict=True))
    assert all(came < following for came, following in zip(chunks[:-5], truth["sends"][5:], strict=True))
    assert all(one <= other for one, other in pairwise([exchange.started, *exchange.arrivals, exchange.finished]))


@pytest.mark.parametrize("pause", [0.0, 0.005])
def test_a_request_starts_before_the_server_has_it_and_ends_after_its_last_byte_was_sent(monkeypatch, pause):
    write = os.write

    def handed_over(file, data):
        sent = write(file, data)
        time.sleep(pause)  # the server has read the request before this client goes on
        return sent

    monkeypatch.setattr(wires.os, "write", handed_over)
    with running(Behaviour(tokens_per_second=1000.0, first_token=(0.0, 0.02))) as server:
        found = ask(server.url, requests=50, max_tokens=4)
        truths = server.truth()
    for exchange, truth in zip(found, truths, strict=True):
        assert exchange.started <= truth["received"]
        assert exchange.finished >= truth["last"] == truth["sends"][-1]
    # one after the other: nothing of a request is before the one that went ahead
    assert all(one.finished <= other.started for one, other in pairwise(found))


def test_large_answers_arrive_whole(server):
    (large,), (many,) = ask(server.at("large")), ask(server.at("many"))
    assert decode(large).text == " w" * (1 << 19)
    assert decode(many).text == "".join(f" w{n}" for n in range(10_000))
    assert len(decode(many).chunks) == 10_000


def test_an_answer_without_end_is_ended(monkeypatch):
    monkeypatch.setattr(wires, "MAX_ANSWER", 1 << 20)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    with saying(head + b"\r\n" + (2 << 20) * b" ") as url:
        assert answer(url).failure == "body: longer than 1 MiB"
    with saying(head + b"".join(b"X-%d: %b\r\n" % (n, 1000 * b"x") for n in range(2000))) as url:
        assert answer(url).failure == "body: longer than 1 MiB"


ODD = {
    "SSH-2.0-OpenSSH_9.6\r\n": "http: ",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n": "http: ",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n": "http: ",
    "HTTP/1.1 204 No Content\r\n\r\n": "empty: the answer holds no text",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n": "empty: the answer holds no text",
    "": "answer: closed by the server before it began",
}


@pytest.mark.parametrize("bytes_", ODD)
def test_what_is_no_answer(bytes_):
    with saying(bytes_.encode()) as url:
        assert answer(url).failure.startswith(ODD[bytes_])


@pytest.mark.parametrize(
    "answer_bytes",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" + whole(said("a")),
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + whole(said("a")),
        whole(said("a"), b"Upgrade: h2,h2c\r\nConnection: Upgrade, Keep-Alive\r\n"),  # Apache offers it
        whole(said("a")) + b"\r\n",
    ],
)
def test_answers_with_something_around_them(answer_bytes):
    with saying(answer_bytes, answer_bytes) as url:
        assert [decode(each).text for each in ask(url, requests=4)] == 4 * ["a"]


@pytest.mark.parametrize("status", [307, 302])
def test_a_redirect_is_an_error_and_nothing_is_sent_there(server, status):
    before = len(server.requests)
    refused = answer(server.at(f"redirect-{status}"), token=TOKEN)
    assert refused.failure.startswith(f"status {status}: it redirects to ")
    assert "set base_url" in refused.failure
    assert len(server.requests) == before + 1


def test_what_is_sent(server):
    ask(server.url, token="t")
    sent = server.requests[-1]
    assert sent["path"] == "/v1/chat/completions"
    assert sent["body"] == BODY
    assert {name: sent["headers"][name] for name in ("authorization", "accept-encoding")} == {
        "authorization": "Bearer t", "accept-encoding": "identity",
    }  # fmt: skip


def test_a_long_request_arrives_whole(server):
    messages = [{"role": "user", "content": "日本 " * 500_000}]
    ask(server.url, messages=messages)
    assert server.requests[-1]["body"]["messages"] == messages


# Proxies


@contextmanager
def proxy(server, answer=b""):
    """A proxy that leads everything to `server`, whatever its name; with `answer` it says that instead.

    Yields its address and the heads of what it was asked.
    """
    heads = []

    def pump(source, sink):
        with closing(source), closing(sink):
            try:
                while data := source.recv(1 << 16):
                    sink.sendall(data)
            except OSError:
                pass

    def talk(client):
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := client.recv(1 << 16)):
                return client.close()
            data += more
        heads.append(data.partition(b"\r\n\r\n")[0].decode())
        if answer:
            client.sendall(answer)
            return client.close()
        upstream = socket.create_connection(server.server_address[:2])
        if data.startswith(b"CONNECT"):
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            _, _, path = data.split(b" ")[1].removeprefix(b"http://").partition(b"/")
            upstream.sendall(b"POST /" + path + b" " + data.split(b" ", 2)[2])
        threading.Thread(target=pump, args=(upstream, client), daemon=True).start()
        return pump(client, upstream)

    def serve():
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://us%65r:pass-word@127.0.0.1:{listening.getsockname()[1]}", heads
        listening.shutdown(2)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
def test_http_goes_through_the_proxy(server, monkeypatch, name):
    with proxy(server) as (address, heads):
        monkeypatch.setenv(name, address.replace("127.0.0.1", "localhost"))  # by all of its addresses
        assert answer("http://endpoint.invalid:8000/v1").text == TEXT
    first, *lines = heads[0].splitlines()
    assert first == "POST http://endpoint.invalid:8000/v1/chat/completions HTTP/1.1"
    assert {"Host: endpoint.invalid:8000", "Proxy-Authorization: Basic dXNlcjpwYXNzLXdvcmQ="} <= set(lines)


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_https_goes_through_a_tunnel_and_is_verified(monkeypatch, tmp_path, host):
    certificate = faults._certificate(tmp_path, host)
    server = faults.Faults("127.0.0.1", certificate)
    threading.Thread(target=server.serve_forever, args=(0.02,)).start()
    shown = f"[{host}]" if ":" in host else host
    try:
        with proxy(server) as (address, heads):
            monkeypatch.setenv("https_proxy", address)
            assert answer(f"https://{shown}/v1", token=TOKEN).failure == "tls: self-signed certificate"
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            assert answer(f"https://{shown}/v1", token=TOKEN).text == TEXT
            assert "192.0.2.8" in answer("https://192.0.2.8/v1").failure  # the certificate is another's
    finally:
        server.die()
        server.server_close()
    assert heads[1].splitlines()[0] == f"CONNECT {shown}:443 HTTP/1.1"
    assert not any("canary" in head or "Authorization: Bearer" in head for head in heads)


def test_who_needs_no_proxy(server, monkeypatch):
    with proxy(server) as (address, heads):
        monkeypatch.setenv("http_proxy", address)
        assert answer(server.url).text == TEXT  # the proxy's loopback is another one
        monkeypatch.setenv("no_proxy", "example.org,.invalid")
        assert answer("http://endpoint.invalid/v1").failure.startswith("dns: endpoint.invalid")
    assert heads == []


@pytest.mark.parametrize("secure", ["", "s"])
def test_a_proxy_that_refuses(server, monkeypatch, secure):
    denied = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nX: pass-word\r\n\r\n"
    with proxy(server, denied) as (address, _):
        monkeypatch.setenv(f"http{secure}_proxy", address)
        failure = answer(f"http{secure}://endpoint.invalid/v1").failure
    assert failure == ("connect: the proxy 127.0.0.1 answers 403 Forbidden" if secure else "status 403")
    monkeypatch.setenv("http_proxy", "http://no-proxy.invalid:3128")
    assert answer("http://endpoint.invalid/v1").failure.startswith("dns: no-proxy.invalid: ")


@pytest.mark.parametrize("value", ["socks5://user:pass-word@host:1080", "http://user:pass-word/@host:1080"])
def test_a_proxy_that_cannot_be_used_is_refused_without_its_password(monkeypatch, value):
    monkeypatch.setenv("http_proxy", value)
    with pytest.raises(ConfigError, match="proxy") as refused:
        ask("http://endpoint.invalid/v1")
    assert "pass" not in str(refused.value)


# The token


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["echo", "echo-in-text"])
def test_the_token_that_a_server_echoes_is_blanked_out(server, name, stream):
    if name == "echo":
        refused = answer(server.at("echo"), token=TOKEN, stream=stream)
        assert refused.failure == "status 401: invalid token: Bearer (secret)"
        return
    told = whole({**said(f"you sent {TOKEN}."), "model": TOKEN})
    if stream:
        halves = [f"you sent {TOKEN[:9]}", f"{TOKEN[9:]}."]
        events = [{"model": TOKEN, "choices": [{"delta": {"content": half}}]} for half in halves]
        told = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(
            f"data: {json.dumps(event)}\n\n".encode() for event in [*events, {"choices": []}]
        ) + b"data: [DONE]\n\n"  # fmt: skip
    with saying(told) as url:
        answered = answer(url, token=TOKEN)
    assert (answered.text, answered.model, answered.failure) == ("you sent (secret).", "(secret)", "")


def test_no_piece_of_a_token_is_left_where_a_long_message_is_cut():
    page = b"x" * 390 + b" " * 1300 + TOKEN.encode()
    for at in range(350, 400):
        body = page[:at] + TOKEN.encode() + page[at:]
        with saying(b"HTTP/1.1 502 Bad\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as url:
            assert "cana" not in answer(url, token=TOKEN).failure


def test_a_word_that_stands_for_no_token_stays_in_the_text():
    with saying(whole(said("ollama is EMPTY"))) as url:
        assert answer(url, token="EMPTY").text == "ollama is EMPTY"


# Stopping


def test_stopping_ends_what_is_in_flight_what_connects_and_what_comes_later(server):
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, closing(socket.socket()) as queued:
        queued.connect(full.getsockname())  # its queue is full: who comes now waits for the connection

        async def work():
            busy, connecting = Wire(server.at("silent")), Wire("http://{}:{}/v1".format(*full.getsockname()))
            tasks = [asyncio.ensure_future(each.exchange(each.post("", {}, b""))) for each in (busy, connecting)]
            await asyncio.sleep(0.2)
            busy.abort()
            connecting.abort()
            return [*await asyncio.gather(*tasks), await busy.exchange(b"")]

        assert [each.failure for each in run(work())] == 3 * ["stopped: by this client"]


def test_nothing_is_left_open(server):
    ask(server.url, requests=4, at_once=4)
    ask(server.at("hang-up"), requests=4, at_once=4)
    gc.collect()  # a socket or task that is left is a warning, and warnings are errors
