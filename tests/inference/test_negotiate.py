"""What an endpoint accepts is found out by asking, whatever it refuses first."""

import json
import time

import faults
import pytest
from asking import run, said, saying, whole

from hpcbench.errors import SiteError
from hpcbench.inference.negotiate import negotiate
from hpcbench.inference.server import Behaviour, running
from hpcbench.inference.wire import Wire

FIELDS = {
    "model": "ok", "max_tokens": 200, "temperature": 0.0, "seed": 1, "stream": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip
FAST = {"tokens_per_second": 1000.0, "first_token": (0.0, 0.0)}


def asked(url, *, most=16, cold_wait=20.0, token="", renewed="", **fields):
    """Negotiate; returns what was accepted and what was said."""
    said, tokens = [], [token]

    async def work():
        wire = Wire(url, 20.0)

        def post(body):
            return wire.post("/chat/completions", {"Authorization": f"Bearer {tokens[-1]}"}, json.dumps(body).encode())

        async def renew():
            tokens.append(renewed)
            return bool(renewed)

        try:
            found = await negotiate(
                wire, post, {**FIELDS, **fields}, most, cold_wait=cold_wait, say=said.append, renew=renew
            )  # fmt: skip
        finally:
            wire.abort()
        return found

    return run(work()), said


def refusal(status, message, **more):
    body = json.dumps({"error": {"message": message}} if message else more).encode()
    return b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def unknown(*names):
    return refusal(422, "", detail=[{"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in names])


def test_an_endpoint_that_takes_all():
    with running(Behaviour(**FAST, strict=True)) as server:
        accepted, said = asked(server.url)
        (truth,) = server.truth()
    assert (accepted.fields, accepted.dropped, accepted.cold_start, said) == (FIELDS, {}, 0.0, [])
    assert len(truth["sends"]) == 16  # a small question, whatever is asked for later


@pytest.mark.parametrize(
    "refusals",
    [
        [unknown("seed"), unknown("stream_options")],
        [unknown("seed", "stream_options"), unknown("stream_options")],
        [refusal(400, "Unknown parameter: 'seed'."), refusal(400, "stream_options is not allowed")],
    ],
)
def test_a_field_that_a_refusal_names_is_left_out_and_that_is_told(refusals):
    with saying(*refusals, whole(said("yes"))) as url:
        accepted, _ = asked(url)
    assert accepted.fields == {key: FIELDS[key] for key in ("model", "max_tokens", "temperature", "stream")}
    assert set(accepted.dropped) == {"seed", "stream_options"}
    assert all(why.startswith("status 4") for why in accepted.dropped.values())
    assert accepted.answer.text == "yes"


def test_a_refusal_that_names_nothing_costs_what_can_be_done_without():
    with saying(refusal(400, "bad request"), refusal(400, "bad request"), whole(said("yes"))) as url:
        accepted, _ = asked(url)
    assert list(accepted.dropped) == ["stream_options", "seed"]


def test_max_completion_tokens_in_place_of_max_tokens():
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    with saying(refusal(400, message), whole(said("yes"))) as url:
        accepted, _ = asked(url)
    assert accepted.fields["max_completion_tokens"] == 200
    assert "max_tokens" not in accepted.fields
    assert accepted.dropped == {"max_tokens": "sent as max_completion_tokens"}


def test_a_cold_model_is_waited_for_and_its_start_is_known():
    with running(Behaviour(**FAST, cold=1.5)) as server:
        accepted, said = asked(server.url)
    assert accepted.cold_start >= 1.5
    (told,) = said
    assert told.startswith("not ready yet: status 503: ")
    assert told.endswith("waiting up to 20 s")


def test_a_cold_model_is_not_waited_for_beyond_what_was_asked():
    with running(Behaviour(**FAST, cold=600.0)) as server, pytest.raises(SiteError, match="status 503"):
        asked(server.url, cold_wait=0.5)


def test_a_token_that_is_refused(monkeypatch):
    monkeypatch.setenv("CANARY", "the-right-token")
    with running(Behaviour(**FAST, token="CANARY")) as server:
        assert asked(server.url, token="the-right-token")[0].answer.failure == ""
        assert asked(server.url, token="the-old-token", renewed="the-right-token")[0].answer.failure == ""
        with pytest.raises(SiteError, match="get a new token"):
            asked(server.url, token="the-wrong-token")
        with pytest.raises(SiteError, match="get a new token"):
            asked(server.url, token="the-wrong-token", renewed="the-other-wrong-token")


def test_the_token_is_in_no_message():
    with faults.serving() as server, pytest.raises(SiteError) as refused:
        asked(server.at("echo"), token="canary-that-nobody-may-see")
    assert "(secret)" in str(refused.value)
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-such-model", "status 404: The model no-such-model does not exist.; is the model's name right"),
        ("html", "the endpoint answers, but not as one does: body: no JSON but text/html"),
        ("status-500", "the endpoint refuses: status 500: never"),
        ("hang-up", "the endpoint does not answer: answer: reset by the server"),
        ("error-data-1", "not as one does: stream: out of memory"),
        ("cut-2", "the endpoint does not answer: body: closed by the server"),
    ],
)
def test_an_endpoint_that_does_not_answer_is_told_in_its_own_words(name, words):
    with faults.serving() as server, pytest.raises(SiteError) as refused:
        asked(server.at(name))
    assert words in str(refused.value)


def test_a_quota_that_is_used_up_for_a_moment():
    with faults.serving() as server:
        assert asked(server.at("429-1"))[0].cold_start == 0.0


def test_reasoning_that_uses_up_the_small_limit_is_an_answer():
    empty = {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
    with saying(whole(empty)) as url:
        assert asked(url)[0].fields == FIELDS


def test_not_streamed():
    with running(Behaviour(**FAST)) as server:
        accepted, _ = asked(server.url, stream=False)
    assert not accepted.answer.streamed


def test_as_many_tokens_as_will_be_asked_for_are_tried_and_not_waited_for():
    with running(Behaviour(tokens_per_second=10.0, first_token=(0.0, 0.0))) as server:
        began = time.monotonic()
        asked(server.url, max_tokens=1, most=3000)
        assert time.monotonic() - began < 100  # all of it would take five minutes


def test_a_limit_that_is_too_high_is_told_and_not_lowered():
    too_many = refusal(400, "max_tokens is too large: 5000. This model supports at most 4096")
    with (
        saying(whole(said("yes")), too_many) as url,
        pytest.raises(SiteError, match=r"does not give 5000 tokens: status 400: max_tokens .* 4096; --max-tokens says"),
    ):
        asked(url, most=5000)


def test_a_server_that_is_busy_when_the_limit_is_tried_refuses_nothing():
    with saying(whole(said("yes")), refusal(503, "busy")) as url:
        accepted, _ = asked(url, most=5000)
    assert accepted.dropped == {}
