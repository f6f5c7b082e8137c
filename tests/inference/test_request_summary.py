"""What a measurement comes to, by hand: few requests whose numbers can be added up in the head."""

from itertools import count

import pytest

from hpcbench.errors import UsageError
from hpcbench.inference.summary import MAX_STOLEN, Clients, Fared, answered, causes, doubts, limits, notes, summarise

EASY = Clients([Fared(cpu=1.0, wall=10.0, lag_p99=0.0, lag_max=0.0, connections=1)], wall=10.0)


PROMPTS = count()


def request(started=0.0, last=1.0, *, tokens=10, error="", phase="measured", block=0, **more):
    row = {
        "phase": phase, "error": error, "retries": 0, "block": block, "started": started, "prompt": f"p{next(PROMPTS)}",
        "last_token": last, "latency": last - started, "output_tokens": tokens, "tokens_counted_by": "server",
    }  # fmt: skip
    return {**row, **more}


def values(rows, **asked_for):
    return {name: value for name, (value, _) in summarise(rows, asked_for or None).items()}


def test_counts_and_percentiles():
    rows = [request(n, n + 1, ttft=n / 100, retries=n % 2) for n in range(1, 101)]
    rows += [request(error="status 500"), request(phase="warm-up", ttft=9.0, retries=5)]
    found = values(rows)
    assert (found["requests"], found["failed_requests"], found["retries"]) == (101, 1, 50)
    assert found["success_rate"] == pytest.approx(100 / 101)
    assert found["ttft_mean"] == pytest.approx(0.505)
    assert found["ttft_median"] == pytest.approx(0.505)
    assert (found["ttft_min"], found["ttft_max"]) == (0.01, 1.0)
    assert found["ttft_p90"] == pytest.approx(0.901)  # numpy's: 0.01 + 0.9 · 0.99
    assert found["ttft_p95"] == pytest.approx(0.9505)
    assert found["ttft_p99"] == pytest.approx(0.9901)
    assert summarise(rows)["ttft_p99"][1] == "s"


def test_a_time_that_is_missing_is_not_zero():
    found = values([request(ttft=0.4), request()])
    assert found["ttft_mean"] == 0.4
    assert "tpot_mean" not in found
    assert "ttfo_mean" not in found


def test_gaps_are_pooled_without_the_first_chunk():
    rows = [request(arrivals_us=[500_000, 10_000, 30_000]), request(arrivals_us=[700_000, 20_000])]
    found = values(rows)
    assert (found["chunk_gap_mean"], found["chunk_gap_max"]) == (pytest.approx(0.02), 0.03)


def test_tokens_a_second_over_the_spans_of_all_blocks():
    rows = [request(0, 2), request(1, 3), request(100, 101, block=1), request(101, 102, block=1)]
    found = values([*rows, request(50, 90, error="timeout: no end within 40 s")])
    assert found["output_tokens_per_second"] == pytest.approx(40 / (3 + 2))
    assert found["requests_per_second"] == pytest.approx(4 / 5)


def test_steady_at_concurrency_1_counts_short_pauses_and_leaves_long_ones():
    rows = [request(0.0, 1.0), request(1.005, 2.0), request(5.0, 6.0)]
    assert values(rows)["steady_tokens_per_second"] == pytest.approx(20 / 2.0)


def test_steady_at_concurrency_4_leaves_opening_and_end():
    # four streams opened a second apart, ten seconds each: all four are under way from 3 to 10
    rows = [request(n, n + 10.0, tokens=100) for n in range(4)]
    found = values(rows)
    assert found["steady_tokens_per_second"] == pytest.approx(4 * 100 / 10, rel=0.02)
    assert found["output_tokens_per_second"] == pytest.approx(400 / 13)
    rows.append(request(10.001, 12.0, tokens=10))  # takes the place of the first: steady until 11
    expected = (3 * 10 * 8 + 10 * 7 + 10 * 0.999 / 1.999) / 8
    assert values(rows)["steady_tokens_per_second"] == pytest.approx(expected, rel=0.02)


def test_steady_counts_tokens_when_they_arrive():
    # each waits four seconds in a queue, and then ten tokens come in one second
    queued = {"arrivals_us": [4_000_000, *[100_000] * 9, 100_000]}
    rows = [request(n, n + 5.0, tokens=11, **queued) for n in range(8)]
    assert values(rows)["steady_tokens_per_second"] == pytest.approx(11.0, rel=0.15)  # five are under way from 4 to 8


def test_steady_is_not_told_of_a_moment():
    rows = [request(0, 1), request(0.9, 1.9), request(1.8, 2.8)]
    assert "steady_tokens_per_second" not in values(rows)


def test_steady_adds_up_all_turns():
    rows = [request(0, 1, block=0), request(10, 12, block=1), request(20, 23, block=2)]
    assert values(rows)["steady_tokens_per_second"] == pytest.approx(30 / 6)


def test_goodput_has_the_failed_in_its_denominator():
    rows = [
        request(0, 1, ttft=0.1, tpot=0.01), request(1, 2, ttft=0.6, tpot=0.01), request(2, 3, ttft=0.1),
        request(3, 4, ttft=0.1, tpot=0.01, error="body: reset"), request(3, 4, ttft=0.5, tpot=0.05),
    ]  # fmt: skip
    found = values(rows, ttft=0.5, tpot=0.05)
    assert found["good_share"] == 2 / 5
    assert found["goodput"] == pytest.approx(2 / 4)


def test_an_answer_of_one_token_keeps_every_limit_between_tokens():
    rows = [request(tokens=1, ttft=0.1), request(ttft=0.1, tpot=0.01), request(ttft=0.1, tpot=0.9)]
    assert values(rows, ttft=0.5, tpot=0.05)["good_share"] == pytest.approx(2 / 3)


def test_goodput_is_not_told_where_the_limit_is_on_a_time_that_there_is_not():
    rows = [request(ttft=0.1), request(ttft=0.2)]
    assert not {"goodput", "good_share"} & values(rows, ttft=0.5, tpot=0.05).keys()
    assert "goodput is not told: the answers have no tpot" in notes(rows, {"ttft": 0.5, "tpot": 0.05})


def test_what_this_client_broke_off_is_no_failure():
    rows = [request(), request(error="stopped: by this client"), request(error="status 500")]
    assert [row["error"] for row in answered(rows)] == ["", "status 500"]


def test_causes():
    rows = [request(error=f"e{n}") for n in range(7) for _ in range(n)] + [request(error="e1", phase="warm-up")]
    assert causes(rows) == "6 × e6; 5 × e5; 4 × e4; 3 × e3; 2 × e2; 1 × others"
    assert causes([request()]) == ""


def test_what_the_server_says_is_held_beside_what_was_seen():
    rows = [request(0, 1, server_latency=0.9, server_ttft=0.2), request(0, 2, server_latency=1.7), request()]
    found = values(rows)
    assert found["network_and_gateway_mean"] == pytest.approx((0.1 + 0.3) / 2)
    assert found["server_ttft_mean"] == 0.2


def test_scores_are_means_over_what_was_answered():
    rows = [request(exact_match=1.0, f1=1.0), request(exact_match=0.0, f1=0.5), request(error="x", exact_match=0.0)]
    found = values(rows)
    assert (found["exact_match"], found["f1"]) == (0.5, 0.75)


def test_nothing_at_all():
    nothing = {"requests": 0, "failed_requests": 0, "retries": 0}
    assert values([]) == nothing
    assert values([request(phase="warm-up")]) == nothing
    failed = values([request(error="connect: Connection refused")], ttft=0.5)
    assert failed == {"requests": 1, "failed_requests": 1, "retries": 0, "success_rate": 0, "good_share": 0}
    assert notes([]) == []


# Doubts

ENOUGH = [request(n, n + 1.0) for n in range(100)]


def doubted(rows=ENOUGH, client=EASY, stopped="", most=10):
    return doubts(rows, client, stopped, most)


def test_a_sound_measurement_is_not_doubted():
    assert doubted() == []
    assert doubted([*ENOUGH, request(error="status 500")]) == []  # one in a hundred
    assert doubted([{**row, "connect_time": 0.1} if n < 10 else row for n, row in enumerate(ENOUGH)]) == []


LATE = [{**row, "schedule_delay": 0.02} for row in ENOUGH]
DOUBTS = {
    "it ended before its time: told": {"stopped": "told"},
    "29 requests succeeded, and below 30 their spread": {"rows": ENOUGH[:29]},
    "it took 1.0 s, and below 5 s": {"rows": [request(0, 1) for _ in range(30)]},
    "2 of 102 requests failed, and what failed may have been the slow ones: 2 × status 500": {
        "rows": [*ENOUGH, *(request(error="status 500") for _ in range(2))]
    },
    "requests were sent up to 20.0 ms late (p99)": {"rows": LATE},
    "the client's event loop was up to 7.0 ms late (p99)": {
        "client": Clients([Fared(1.0, 10.0, 0.007, 0.1, 1), EASY.fared[0]], 10.0)
    },
    "a client used 90 % of its core: --clients 3 shares the load": {
        "client": Clients([EASY.fared[0], Fared(9.0, 10.0, 0.0, 0.0, 1)], 10.0)
    },
    "the host under this virtual machine kept 3 % of its CPU time": {"client": Clients(EASY.fared, 10.0, stolen=0.03)},
    "3 prompts were sent before": {"rows": [*ENOUGH, *ENOUGH[:3]]},
    "answers of up to 10 tokens are told of where 9 were the limit": {"most": 9},
    "the server closes its connections": {"rows": [{**row, "connect_time": 0.1} for row in ENOUGH]},
}


@pytest.mark.parametrize("reason", DOUBTS)
def test_each_reason_by_itself(reason):
    (said,) = doubted(**DOUBTS[reason])
    assert said.startswith(reason)


def test_all_reasons_at_once_are_told_once_each():
    rows = [request(n, n + 0.1, schedule_delay=9.0, connect_time=0.1) for n in (0, 1, 2)] + [request(error="x")]
    said = doubts([*rows, rows[0]], Clients([Fared(9.0, 10.0, 1.0, 1.0, 9)], 10.0, stolen=0.5), "told", 9)
    assert len(said) == len(set(said)) == len(DOUBTS)


def test_a_little_stolen_time_is_none():
    assert doubted(client=Clients(EASY.fared, 10.0, stolen=MAX_STOLEN)) == []


def test_opening_a_connection_is_no_lateness():
    assert doubted([{**row, "schedule_delay": 0.1, "connect_time": 0.099} for row in ENOUGH][:5] + ENOUGH[5:]) == []


def test_several_clients():
    fared = [Fared(1.0, 10.0, 0.001, 0.3, 4), Fared(2.0, 10.0, 0.003, 0.2, 5), Fared(4.0, 10.0, 0.002, 0.1, 6)]
    client = Clients(fared, 10.0)
    assert client.cpu == 7.0
    assert (client.worst("lag_p99"), client.worst("lag_max"), client.worst("connections")) == (0.003, 0.3, 6.0)
    assert (Clients([], 0.0).cpu, Clients([], 0.0).worst("lag_p99")) == (0.0, 0.0)
    for place in range(3):  # whichever it is that is late, or busy
        (late,) = doubted(client=Clients([*fared[:place], Fared(1.0, 10.0, 0.009, 0.1, 1), *fared[place + 1 :]], 10.0))
        assert late.startswith("the client's event loop was up to 9.0 ms late")
        (busy,) = doubted(client=Clients([*fared[:place], Fared(8.5, 10.0, 0.001, 0.1, 1), *fared[place + 1 :]], 10.0))
        assert busy == "a client used 85 % of its core: --clients 4 shares the load"


def test_notes():
    rows = [request(tokens_counted_by="chunks", cached_tokens=5), request(cached_tokens=0)]
    counted, cached, whole = notes(rows)
    assert "chunks were counted" in counted
    assert cached.startswith("1 prompts")
    assert "not as a stream" in whole
    assert notes([request(ttft=0.1)]) == []
    assert notes([request(ttft=0.1, retries=2), request(ttft=0.1, phase="warm-up", retries=5)])[0].startswith("2 times")


def test_limits():
    assert limits("ttft=0.5, tpot=.05,") == {"ttft": 0.5, "tpot": 0.05}
    assert limits("") == {}
    for text in ("ttft", "ttft=", "ttft=x", "itl=0.5", "ttft=-1", "ttft=nan", "ttft=1.2.3"):
        with pytest.raises(UsageError, match="--slo"):
            limits(text)
