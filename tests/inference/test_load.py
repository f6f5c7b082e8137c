"""Schedules to the digit, and a driver that keeps to them, tries again as it is told, and knows when it is enough."""

import asyncio
import json
import time
from email.utils import formatdate
from itertools import pairwise

import faults
import pytest
from asking import BODY, run

from hpcbench.inference.decode import decode
from hpcbench.inference.load import Budget, Driver, Enough, Sent, failed, schedule
from hpcbench.inference.record import About, row
from hpcbench.inference.server import Behaviour, running
from hpcbench.inference.wire import Exchange, Wire, clock

ABOUT = About("p", "q", (), "measured")


@pytest.fixture(scope="module")
def server():
    with faults.serving() as server:
        yield server


class Scripted:
    """In place of a wire: each request takes `seconds` and ends as the next of `answers` says, the last for ever."""

    def __init__(self, *answers, seconds=0.0):
        self.answers, self.seconds = list(answers) or [{}], seconds
        self.now = self.most = 0
        self.began = []
        self.sent = []

    async def exchange(self, request, scheduled=0):
        self.now += 1
        self.most = max(self.most, self.now)
        self.sent.append(request)
        exchange = Exchange(scheduled, clock(), status=200)
        self.began.append(exchange.started)
        await asyncio.sleep(self.seconds)
        for name, value in (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]).items():
            setattr(exchange, name, value)
        exchange.finished = clock()
        self.now -= 1
        return exchange


def driven(wire, act, enough=None, **options):
    """Return what came of each request, sorted by number; `act` gets the driver."""
    done = []

    async def work():
        loop_bound = wire() if callable(wire) else wire
        driver = Driver(loop_bound, request(loop_bound), done.append, enough or Enough(), **options)
        await act(driver)
        if isinstance(loop_bound, Wire):
            loop_bound.abort()

    run(work())
    return sorted(done, key=lambda sent: sent.number)


def request(wire):
    """Write the request of a number: its prompt is the number."""
    if isinstance(wire, Scripted):
        return lambda number: b"%d" % number
    return lambda number: wire.post(
        "/chat/completions", {}, json.dumps({**BODY, "messages": [{"role": "user", "content": f"{number}"}]}).encode()
    )


# Schedules


def test_schedules():
    assert schedule("constant", 4, 2.0, 0) == [0.0, 0.5, 1.0, 1.5]
    assert schedule("ramp", 4, 2.0, 0) == pytest.approx([0.0, 2.0, 2.0 * 2**0.5, 2.0 * 3**0.5])
    assert schedule("replay", 7, 0.0, 0, [5.0, 6.0, 9.0]) == [0.0, 1.0, 4.0, 6.0, 7.0, 10.0, 12.0]
    assert schedule("replay", 3, 0.0, 0, [5.0]) == [0.0, 0.0, 0.0]
    assert [schedule(pattern, 0, 2.0, 0, [1.0]) for pattern in ("constant", "poisson", "ramp", "replay")] == 4 * [[]]


def test_poisson_is_fixed_by_its_seed_and_has_the_rate_asked_for():
    times = schedule("poisson", 20_001, 50.0, 7)
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert (mean, spread) == (pytest.approx(0.02, rel=0.03), pytest.approx(0.02, rel=0.03))
    assert schedule("poisson", 20_001, 50.0, 7) == times
    assert schedule("poisson", 3, 50.0, 8) != times[:3]
    assert times[0] == 0.0


# Open and closed loops


def test_an_open_loop_sends_when_due_however_slow_the_server():
    times = schedule("constant", 20, 100.0, 0)
    with running(Behaviour(first_token=(2.0, 2.0))) as server:
        done = driven(lambda: Wire(server.url), lambda driver: driver.open(range(20), times))
        truth = server.truth()
    assert max(each["received"] for each in truth) < min(each["first"] for each in truth)
    began = done[0].exchange.scheduled
    assert [sent.exchange.scheduled for sent in done] == [began + int(due * 1e9) for due in times]
    assert all(sent.exchange.started >= sent.exchange.scheduled for sent in done)


@pytest.mark.parametrize(("count", "concurrency", "most"), [(40, 4, 4), (3, 8, 3), (5, 1, 1), (0, 4, 0)])
def test_a_closed_loop_keeps_so_many_in_flight_and_never_more(count, concurrency, most):
    wire = Scripted(seconds=0.002)
    done = driven(wire, lambda driver: driver.closed(range(count), concurrency))
    assert [sent.number for sent in done] == list(range(count))
    assert wire.most == most


def test_streams_are_opened_one_after_another():
    wire = Scripted(seconds=0.3)
    driven(wire, lambda driver: driver.closed(range(5), 5, 0.1))
    assert all(after - before >= 0.01e9 for before, after in pairwise(wire.began))
    assert wire.most == 5


# When it is enough


def test_a_time_ends_it():
    enough = Enough()

    async def act(driver):
        await driver.closed(range(3), 1)
        enough.until = clock() + 50_000_000
        await driver.closed(range(3, 100_000), 2)

    done = driven(Scripted(seconds=0.001), act, enough)
    assert 3 <= len(done) < 1000
    assert enough.stopped == ""
    assert enough.reached()


def test_a_time_ends_an_open_loop_whose_next_request_is_far_away():
    enough = Enough(until=clock() + 50_000_000)
    done = driven(Scripted(), lambda driver: driver.open(range(2), [0.0, 3600.0]), enough)
    assert [sent.number for sent in done] == [0]


@pytest.mark.parametrize("pattern", ["closed", "open"])
def test_nothing_is_sent_before_the_time_at_which_it_begins(pattern):
    at = clock() + 200_000_000
    wire = Scripted(seconds=0.1)
    if pattern == "closed":
        driven(wire, lambda driver: driver.closed(range(3), 3, 0.03, at))
        due = [at, at + 10_000_000, at + 20_000_000]
    else:
        done = driven(wire, lambda driver: driver.open(range(3), [0.0, 0.01, 0.02], at))
        due = [sent.exchange.scheduled for sent in done]
        assert due == [at, at + 10_000_000, at + 20_000_000]
    assert all(began >= when for began, when in zip(wire.began, due, strict=True))


@pytest.mark.parametrize(("pieces", "expected"), [
    ([b'data: {"error": {"message": "out of memory"}}\n\n'], True),
    ([b"event: error\ndata: gone\n\n"], True),
    ([b'data: {"choices": []}\n\n', b'data: {"err', b'or":"no"}\n\n'], True),
    ([], True),
    ([b'data: {"choices": [{"delta": {"content": "a"}}], "error": null}\n\n', b"data: [DONE]\n\n"], False),
    ([b'{"error": {}, "choices": []}'], False),
    ([b'{"error":"", "choices": []}'], False),
    ([json.dumps({"choices": [{"message": {"content": '{"error": 1}\nevent: error'}}]}).encode()], False),
])  # fmt: skip
def test_an_error_inside_a_success_is_a_failure(pieces, expected):
    assert failed(Exchange(status=200, pieces=pieces)) is expected


def test_other_failures():
    whole = [b'{"choices": [{"message": {"content": "a"}}]}']
    assert not failed(Exchange(status=200, pieces=whole))
    assert failed(Exchange(status=500, pieces=whole))
    assert failed(Exchange(status=200, pieces=whole, failure="body: reset"))
    assert failed(Exchange(status=200, pieces=[b"<html>"], headers=[(b"Content-Type", b"text/html")]))


def test_what_failed_is_seen_as_decoding_sees_it(server):
    """Whatever a server does, an answer that is taken for whole here has no failure in its record, and the reverse."""
    for name in ("ok", "one-in-3", "error-event-2", "error-data-2", "reset-2", "cut-2", "no-done", "usage-null", "json",
                 "gzip", "html", "error-text", "split"):  # fmt: skip
        for sent in driven(lambda name=name: Wire(server.at(name)), lambda driver: driver.closed(range(4), 1)):
            assert failed(sent.exchange) is bool(decode(sent.exchange).failure), name


@pytest.mark.parametrize(("share", "outcomes", "ends"), [
    (0.3, [True] * 19, 0), (0.3, [True] * 20, 20), (0.5, [False, True] * 20, 0), (0.0, [False] * 30 + [True], 31),
    (1.0, [True] * 100, 0), (0.25, [False] * 14 + [True] * 9, 20),
])  # fmt: skip
def test_a_budget_of_failures(share, outcomes, ends):
    budget = Budget(share)
    said = [budget.count(outcome) for outcome in outcomes]
    first = next((place for place, why in enumerate(said, 1) if why), 0)
    assert first == ends
    if ends:
        assert said[ends - 1] == f"{sum(outcomes[:ends])} of the first {ends} requests failed"


def test_a_third_that_fails_is_counted_to_the_last(server):
    done = driven(lambda: Wire(server.at("one-in-4")), lambda driver: driver.closed(range(40), 4))
    said = [decode(sent.exchange).failure for sent in done]
    assert sorted(said) == 30 * [""] + 10 * ["status 500: Internal server error"]
    assert [sent.retries for sent in done] == 40 * [0]  # 500 does not mean "later"


@pytest.mark.parametrize("waits_for", ["a pause", "its time"])
def test_a_word_from_outside_ends_it_at_once(waits_for):
    enough = Enough()
    wire = Scripted({"status": 429, "headers": [(b"Retry-After", b"3600")]} if waits_for == "a pause" else {})

    async def act(driver):
        asyncio.get_running_loop().call_later(0.1, setattr, enough, "stopped", "told")
        await driver.open(range(2), [0.0, 0.0 if waits_for == "a pause" else 3600.0])

    done = driven(wire, act, enough)
    assert len(done) == (2 if waits_for == "a pause" else 1)
    assert len(wire.sent) == len(done)


# Trying again


@pytest.mark.parametrize(("name", "status"), [("retry-after-2", 200), ("retry-after-date-1", 200), ("429-2", 200),
                                               ("408-1", 200), ("503-1", 200), ("504-9", 504)])  # fmt: skip
def test_later_is_tried_again_and_the_pauses_are_in_no_duration(server, name, status):
    began = clock()
    (sent,) = driven(lambda: Wire(server.at(name)), lambda driver: driver.open([0], [0.0]), retries=2)
    found = row(sent, ABOUT, decode(sent.exchange), 0.0)
    assert (sent.exchange.status, sent.retries) == (status, min(2, int(name.rpartition("-")[2])))
    assert sent.paused > (0.0 if "date" in name else 0.25)
    assert sent.exchange.started - began >= sent.paused * 1e9
    if name == "retry-after-2":
        assert sent.paused >= 2.0
    if status == 200:
        chunks = decode(sent.exchange).chunks
        assert found["latency"] == (chunks[-1] - sent.exchange.started) / 1e9
        assert found["latency_from_schedule"] == pytest.approx(found["latency"] + found["schedule_delay"] + sent.paused)
    assert found["schedule_delay"] < sent.paused


@pytest.mark.parametrize("said", ["nan", "inf", "-5", "soon", "", "Mon, 99 Foo 2020", "1e999", formatdate(0)])
def test_a_wish_that_makes_no_sense_does_no_harm(said):
    later = {"status": 503, "headers": [(b"retry-after", said.encode())]}
    (sent,) = driven(Scripted(later, {}), lambda driver: driver.closed([0], 1))
    assert (sent.exchange.status, sent.retries) == (200, 1)
    assert sent.paused >= 0.0


def test_a_date_that_is_near_is_waited_for():
    said = formatdate(time.time() + 2, usegmt=True).encode()  # whole seconds: at least one is left
    wire = Scripted({"status": 429, "headers": [(b"Retry-After", said)]}, {})
    (sent,) = driven(wire, lambda driver: driver.closed([0], 1))
    assert sent.paused > 0.5


def test_a_connection_that_was_gone_counts_as_a_try_and_is_no_lateness():
    now = clock()
    gone = {"started": now, "resent": 300_000_000}
    (sent,) = driven(Scripted(gone), lambda driver: driver.closed([0], 1))
    assert (sent.retries, sent.paused) == (1, 0.3)


# A token that runs out


class Expiring(Scripted):
    """Refuses every token but the newest with 401, as a gateway does whose token ran out."""

    good = b"new"

    async def exchange(self, request, scheduled=0):
        exchange = await super().exchange(request, scheduled)
        exchange.status = 200 if request.startswith(self.good) else 401
        return exchange


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_token_that_ran_out_is_renewed_once_for_all(at_once):
    wire, token, renewals = Expiring(seconds=0.01), [b"old"], []

    async def renew():
        await asyncio.sleep(0.02)
        renewals.append(token[0])
        token[0] = b"new"
        return renewals[-1] != token[0]

    done = []
    driver = Driver(wire, lambda number: token[0] + b"%d" % number, done.append, Enough(), renew=renew)
    run(driver.closed(range(8), at_once))
    assert [sent.exchange.status for sent in done] == 8 * [200]
    assert renewals == [b"old"]
    assert sum(sent.retries for sent in done) == at_once


def test_a_token_that_stays_refused_is_a_failure():
    async def renew():
        return False

    for way in (renew, None):
        wire = Expiring()
        (sent,) = driven(wire, lambda driver: driver.closed([0], 1), renew=way)
        assert (sent.exchange.status, sent.retries, len(wire.sent)) == (401, 0, 1)


def test_what_failed_to_arrive_is_not_sent_twice(server):
    done = driven(lambda: Wire(server.at("reset-2")), lambda driver: driver.closed(range(6), 2))
    assert [sent.retries for sent in done] == 6 * [0]
    assert isinstance(done[0], Sent)
    assert len({decode(sent.exchange).failure for sent in done}) == 1
