"""Answers in all the forms that servers send, from the fault server and from bytes cut anywhere."""

import json
import subprocess
import sys
import urllib.parse
import zlib

import faults
import pytest
from asking import ask, saying, whole
from faults import DONE, TOKENS, USAGE
from hypothesis import given
from hypothesis import strategies as st

from hpcbench.inference.decode import blanked, decode, events
from hpcbench.inference.wire import Exchange

TEXT = "".join(TOKENS)


@pytest.fixture(scope="module")
def server():
    with faults.serving() as server:
        yield server


def streamed(*bodies, kind=b"text/event-stream", failure=""):
    """Return an answer that came in these pieces, a second apart."""
    pieces = [each if isinstance(each, bytes) else event(each) for each in bodies]
    headers = [(b"Content-Type", kind)] if kind else []
    return decode(Exchange(0, 1, 0, 9, 200, headers, list(range(1, 1 + len(pieces))), pieces, failure))


def event(value):
    return f"data: {json.dumps(value)}\n\n".encode()


def delta(content, **more):
    return {"choices": [{"delta": {"content": content}, **more}]}


WHOLE = (
    "ok", "no-done", "no-usage", "usage-null", "usage-unasked", "packed", "split", "dribble", "comments", "crlf",
    "no-space", "empty", "reasoning", "close-delimited", "close-idle", "slow-headers", "json", "gzip",
)  # fmt: skip
FAILED = {  # behaviour: failure, text that had arrived
    "error-event-2": ("stream: out of memory", "".join(TOKENS[:2])),
    "error-data-0": ("stream: out of memory", ""),
    "invalid-json": ('stream: an event that is not JSON: {"choices": [{"delta": {"cont', TEXT),
    "html": ("body: no JSON but text/html: <!doctype html><title>Log in</title>", ""),
    "error-text": ("status 502: <html><head><title>502 Bad Gateway</title></head></html>", ""),
    "status-500": ("status 500: never", ""),
    "one-in-1": ("status 500: Internal server error", ""),
    "no-such-model": ("status 404: The model no-such-model does not exist.", ""),
    "429-9": ("status 429: not now", ""),
    "reset-2": ("body: reset by the server in the middle of the answer", "".join(TOKENS[:2])),
    "cut-4": ("body: closed by the server in the middle of the answer", "".join(TOKENS[:4])),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("asked_for_usage", [True, False])
def test_an_answer_that_is_whole(server, name, asked_for_usage):
    (exchange,) = ask(server.at(name), stream_options={"include_usage": asked_for_usage})
    answer = decode(exchange)
    assert answer.failure == ""
    assert answer.reasoning + answer.text == TEXT
    assert (answer.finish_reason, answer.model) == ("stop", "m")
    as_stream = name not in ("json", "gzip")
    assert answer.streamed == as_stream
    assert len(answer.chunks) == (5 if as_stream else 1)
    assert answer.chunks == sorted(answer.chunks)
    assert set(answer.chunks) <= set(exchange.arrivals)
    usage = asked_for_usage if name not in ("no-usage", "usage-null", "usage-unasked") else name == "usage-unasked"
    always = name in ("json", "gzip", "packed", "dribble", "close-delimited", "slow-headers")
    assert answer.usage == (USAGE if usage or always else {})


@pytest.mark.parametrize("name", FAILED)
def test_an_answer_that_is_a_failure_keeps_what_had_arrived(server, name):
    (exchange,) = ask(server.at(name))
    answer = decode(exchange)
    assert (answer.failure, answer.text) == FAILED[name]


def test_every_behaviour_of_the_fault_server_is_covered():
    tested = {name.rpartition("-")[0] if name[-1].isdecimal() else name for name in (*WHOLE, *FAILED)}
    elsewhere = {  # in the tests of the wire and of the load
        "retry-after", "retry-after-date", "408", "503", "429", "echo", "redirect", "hang-up", "stall", "silent",
        "half-body", "dies", "large", "many", "one-in", "status", "strict",
    }  # fmt: skip
    assert not faults.NAMES - tested - elsewhere


def test_reasoning_is_apart_and_the_first_content_behind_it(server):
    (exchange,) = ask(server.at("reasoning"))
    answer = decode(exchange)
    assert (answer.reasoning, answer.text) == ("".join(TOKENS[:2]), "".join(TOKENS[2:]))
    assert answer.first_content == answer.chunks[2]


def test_neither_the_role_nor_an_empty_chunk_nor_the_usage_is_a_chunk(server):
    (exchange,) = ask(server.at("empty"))
    first_byte, answer = exchange.arrivals[0], decode(exchange)
    assert len(answer.chunks) == 5
    assert answer.chunks[0] > first_byte


def test_a_stream_that_a_gateway_ends_in_the_middle_is_no_success():
    said = "stream: it ends in the middle, with neither a finish_reason nor [DONE]"
    assert streamed(delta("a"), delta("b")).failure == said
    assert streamed(delta("a"), delta("b", finish_reason="stop")).failure == ""
    assert streamed(delta("a"), delta("b"), DONE).failure == ""
    assert streamed(delta("a"), failure="timeout: no end within 1 s").failure == "timeout: no end within 1 s"


@pytest.mark.parametrize(
    ("body", "kind", "failure"),
    [
        (event(delta("a")) + DONE, b"application/json", ""),
        (event(delta("a")) + DONE, b"", ""),
        (b": ping\n\n" + event(delta("a")) + DONE, b"text/plain", ""),
        (b'{"choices": [{"message": {"content": "a"}}]}', b"text/event-stream", ""),
        (b'{"error": {"message": "no"}}', b"text/event-stream", "body: no"),
        (b'{"error": "no"}', b"application/json", "body: no"),
        (b"event: error\ndata: out of memory\n\n", b"text/event-stream", "stream: out of memory"),
        (b'event: error\ndata: {"detail": [1]}\n\n', b"text/event-stream", "stream: [1]"),
        (b"data: [1]\n\n", b"text/event-stream", "stream: an event that is not JSON: [1]"),
        (b"data: {}\n\ndata: [DONE]\n\n", b"text/event-stream", "empty: the answer holds no text"),
        (b"", b"text/event-stream", "empty: the answer holds no text"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_it_is_shows_in_the_body_not_in_its_type(body, kind, failure, size):
    answer = streamed(*[body[at : at + size] for at in range(0, len(body), size)], kind=kind)
    assert answer.failure == failure
    assert answer.text == ("" if failure else "a")


def test_chunks_of_tools_parts_and_plain_completions():
    call = {"choices": [{"delta": {"tool_calls": [{"index": 0}]}, "finish_reason": "tool_calls"}]}
    parts = {"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}}]}
    plain = {"choices": [{"text": "b", "finish_reason": "length"}]}
    assert streamed(call, DONE).chunks == [1]
    assert streamed(parts, plain).text == "ab"


def test_a_letter_that_comes_in_two_halves_is_whole():
    assert streamed(delta("\ud83d"), delta("\ude42 é"), DONE).text == "🙂 é"
    assert streamed(delta("\ud83d"), DONE).text == "\ufffd"


def test_usage_is_the_last_that_is_told():
    growing = [{**delta("a"), "usage": {"completion_tokens": n}} for n in (1, 2)]
    assert streamed(*growing, {"choices": [], "usage": None}, DONE).usage == {"completion_tokens": 2}


def test_packed_bodies_that_are_not():
    with saying(whole({"a": 1}, b"Content-Encoding: gzip\r\n")) as url:
        (exchange,) = ask(url)
    assert decode(exchange).failure.startswith("body: it is said to be compressed, and is not")
    bomb = zlib.compress(bytes(65 << 20))
    headers = [(b"content-encoding", b"gzip")]
    assert decode(Exchange(status=200, headers=headers, arrivals=[1], pieces=[bomb])).failure.startswith("body: ")
    assert decode(Exchange(status=500, headers=headers, arrivals=[1], pieces=[b"no"])).failure == "status 500"


# Secrets

SECRET = "abcd/efgh+ijkl=="
SPELLINGS = (
    SECRET, "abcd%2Fefgh%2Bijkl%3D%3D", "abcd%2fefgh%2bijkl%3d%3d", "abcd/efgh%2Bijkl==", r"abcd\/efgh+ijkl==",
    r"abcd/efgh\u002bijkl\u003d\u003d", r"\u0061bcd\u002Fefgh\u002Bijkl==", "%61bcd/efgh+ijkl=%3d", SECRET.upper(),
    urllib.parse.quote("abcd%2fefgh%2Bijkl=="), json.dumps(r"abcd\/efgh\u002Bijkl==")[1:-1],
)  # fmt: skip


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_a_secret_is_blanked_however_it_is_spelled(spelled):
    hidden, said = "[(secret), (secret)]", f"[{spelled}, {spelled}]"
    assert blanked(said, [SECRET]) == hidden
    refused = Exchange(status=401, arrivals=[1], pieces=[said.encode()], secrets=(SECRET,))
    assert decode(refused).failure == f"status 401: {hidden}"
    told = Exchange(status=200, secrets=(SECRET,))
    told.pieces = [event({"model": said}), *(event(delta(letter)) for letter in said), DONE]
    told.pieces += [event({"choices": [{"delta": {"reasoning": said[at : at + 3]}}]}) for at in range(0, len(said), 3)]
    told.arrivals = list(range(len(told.pieces)))
    answer = decode(told)
    assert (answer.text, answer.reasoning, answer.model) == (hidden, hidden, hidden)


def test_one_secret_in_another_one_with_odd_characters_and_none_at_all():
    assert blanked("pass-word and pass-word-2", ["pass-word", "pass-word-2"]) == "(secret) and (secret)"
    odd = 'a b\n"\\é🙂.*'
    for form in (odd, json.dumps(odd)[1:-1], json.dumps(json.dumps(odd))[3:-3], urllib.parse.quote(odd)):
        assert blanked(f"<{form}>", [odd]) == "<(secret)>"
    assert blanked("a b", ["", ".*.*.*.*.*"]) == "a b"


def test_a_short_secret_is_a_word_of_answers_but_blanked_in_failures():
    refused = Exchange(status=401, arrivals=[1], pieces=[b"bad EM/TY, EM\\/TY, EM%2fTY; em/ty"], secrets=("EM/TY",))
    assert decode(refused).failure == "status 401: bad (secret), (secret), (secret); em/ty"
    told = Exchange(status=200, arrivals=[1, 2], pieces=[event(delta(r"EM/TY EM\/TY")), DONE], secrets=("EM/TY",))
    assert decode(told).text == r"EM/TY EM\/TY"
    empty = Exchange(status=200, arrivals=[1], pieces=[DONE], secrets=("EMPTY",))
    assert decode(empty).failure == "empty: the answer holds no text"


def test_blanking_needs_no_package_of_a_measurement():
    program = "import sys; sys.modules['httptools'] = None; from hpcbench.inference.decode import blanked"
    subprocess.run([sys.executable, "-c", program], check=True)


# What hypothesis found nothing against


@given(st.text(min_size=8, max_size=12), st.data())
def test_a_secret_of_any_letters_with_each_in_a_form_of_its_own(secret, data):
    said = ""
    for letter in secret:
        percent = "".join(f"%{byte:02X}" for byte in letter.encode())
        said += data.draw(st.sampled_from([letter, percent, percent.lower(), json.dumps(letter)[1:-1]]))
    assert blanked(said, [secret]) == "(secret)"


EVENTS = st.lists(
    st.tuples(
        st.sampled_from([b"", b"error", "é".encode()]),
        st.lists(st.sampled_from([b"", b"a", b" b:c", "日本🙂".encode(), b"data"]), min_size=1, max_size=3),
        st.sampled_from([b"", b": ping", b"id: 1", b"retry"]),
    ),
    max_size=4,
)
END = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(EVENTS, END, st.booleans(), st.data())
def test_events_are_the_same_however_they_are_cut(told, end, closed, data):
    body, ends = b"", []
    for position, (name, lines, beside) in enumerate(told):
        body += b"event: " + name + end if name else b""
        body += beside + end if beside else b""
        for line in lines:
            body += b"data: " + line + end
        ends.append(len(body) - len(end) + 1)  # a line has ended with the first byte of its end
        body += end if closed or position + 1 < len(told) else b""
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=12).map(sorted))
    pieces = [(to, body[since:to]) for since, to in zip([0, *cuts], [*cuts, len(body)], strict=True) if to > since]
    found = list(events(pieces))
    assert [(name, said) for _, name, said in found] == [(name.decode(), b"\n".join(lines)) for name, lines, _ in told]
    assert [when for when, _, _ in found] == [min(to for to, _ in pieces if to >= at) for at in ends]


NAMES = ("choices", "delta", "message", "content", "usage", "error", "detail", "finish_reason", "model", "text")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(10**400), 10**400) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from([200, 400, 0, 307]), JSON, st.binary(max_size=20), st.sampled_from([b"", b"gzip", b"br"]))
def test_nothing_that_a_server_sends_raises(status, value, noise, packing):
    told = json.dumps(value).encode()
    for pieces in ([told], [b"data: " + told, b"\n\n", noise], [noise, told], [b"event: error\ndata:", told, b"\n\n"]):
        exchange = Exchange(
            status=status, headers=[(b"content-encoding", packing), (b"location", noise)],
            arrivals=list(range(len(pieces))), pieces=pieces, secrets=("a-secret",),
        )  # fmt: skip
        answer = decode(exchange)
        assert isinstance(answer.text, str)
        assert answer.failure or answer.chunks


def test_json_that_is_too_deep():
    deep = b"[" * 100_000
    assert decode(Exchange(status=200, arrivals=[1], pieces=[deep])).failure.startswith("body: no JSON")
    assert decode(Exchange(status=400, arrivals=[1], pieces=[deep])).failure.startswith("status 400: [[[")


def test_a_line_in_very_many_pieces():
    exchange = Exchange(status=200, headers=[(b"content-type", b"text/event-stream")])
    exchange.pieces = [b'data: {"choices": [{"delta": {"content": "', *300_000 * [b"0123456789"], b'"}}]}\n\n', DONE]
    exchange.arrivals = list(range(len(exchange.pieces)))
    assert len(decode(exchange).text) == 3_000_000  # a quadratic reader would be at it for a minute


def test_an_answer_in_very_many_chunks():
    word = event({"choices": [{"delta": {"content": "é ", "reasoning": "x"}}]})
    exchange = Exchange(status=200, pieces=[*400_000 * [word], DONE], arrivals=list(range(400_001)), secrets=(SECRET,))
    answer = decode(exchange)
    assert len(answer.chunks) == 400_000
    assert (answer.text, answer.reasoning) == (400_000 * "é ", 400_000 * "x")  # quadratic, it would take a minute


def test_a_body_of_nothing_but_the_beginnings_of_a_secret():
    for piece in (b"\\", b"%25", b"abcd%2fefgh"):
        page = Exchange(status=502, arrivals=[1], pieces=[300_000 * piece], secrets=(SECRET,))
        assert decode(page).failure.startswith(f"status 502: {piece.decode()}")
