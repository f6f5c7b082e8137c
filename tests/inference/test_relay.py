"""A gateway that passes chunks on in groups is recognised by their times alone."""

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
