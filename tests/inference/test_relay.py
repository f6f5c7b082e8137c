"""A gateway that passes chunks on in groups is recognised by their times alone."""

from itertools import accumulate

import pytest
from asking import ask

from hpcbench.inference.decode import decode
from hpcbench.inference.relay import Relay, relay
from hpcbench.inference.server import Behaviour, running


def seen(**behaviour):
    """Measure what a server sends: the arrivals of four streams of 80 tokens at once, in seconds."""
    with running(Behaviour(first_token=(0.0, 0.1), **behaviour)) as server:
        exchanges = ask(server.url, requests=4, at_once=4, max_tokens=80)
    return relay([chunk / 1e9 for chunk in decode(exchange).chunks] for exchange in exchanges)


def test_groups_of_a_gateway():
    found = seen(relay=True, tokens_per_second=50.0)
    assert found is not None
    assert found.size == pytest.approx(20, abs=2)
    assert 0.3 < found.interval < 0.7


@pytest.mark.parametrize("speed", [50.0, 1000.0])
def test_chunks_that_come_one_by_one(speed):
    assert seen(tokens_per_second=speed) is None


def groups(count, size, interval):
    return [group * interval + chunk * 0.0001 for group in range(count) for chunk in range(size)]


def test_what_makes_a_relay():
    assert relay([groups(5, 20, 0.5)]) == Relay(20.0, pytest.approx(0.4981))
    assert relay([groups(3, 10, 0.5), groups(2, 10, 0.5)]) == Relay(10.0, pytest.approx(0.4991))
    assert relay([groups(40, 2, 0.05)]) is None  # two tokens in a step
    assert relay([groups(20, 4, 0.01)]) is None  # steps, one after the other
    assert relay([groups(1, 100, 0.5)]) is None  # all at once: nothing is known of what is between
    assert relay([groups(2, 20, 0.5)]) is None  # too few to tell
    assert relay([[], [1.0]]) is None
    assert relay([]) is None


def gaps(within, between, *, together=0.0001, apart=0.5):
    """The arrivals of one answer with so many gaps within groups and between them, in seconds."""
    return list(accumulate([0.0, *within * [together], *between * [apart]]))


def test_the_limits_of_what_is_a_relay():
    # 40 gaps, and 70 % of them within groups
    assert relay([gaps(28, 12)]) == Relay(41 / 13, pytest.approx(0.5))
    assert relay([gaps(28, 11)]) is None
    assert relay([gaps(700, 300)]) is not None
    assert relay([gaps(699, 301)]) is None
    assert relay([gaps(14, 6), gaps(14, 6)]) == Relay(42 / 14, pytest.approx(0.5))  # over all answers
    # 20 ms between groups
    assert relay([gaps(60, 20, apart=0.0201)]) == Relay(81 / 21, pytest.approx(0.0201))
    assert relay([gaps(60, 20, apart=0.0199)]) is None
    # 1 ms within one
    assert relay([gaps(60, 20, together=0.0009)]) is not None
    assert relay([gaps(60, 20, together=0.0011)]) is None
