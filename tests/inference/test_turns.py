"""Whose turn it is among processes that measure side by side."""

import asyncio
import os

import pytest

from hpcbench.inference import turns
from hpcbench.inference.turns import Turns


def never() -> bool:
    return False


async def take(turn: Turns, name: str, order: list[str], count: int = 3) -> None:
    turn.ready()
    for _ in range(count):
        await turn.mine(never)
        order.append(name)
        turn.next()


def test_they_go_round(tmp_path):
    order: list[str] = []

    async def all_three() -> None:
        with Turns(tmp_path, 0, 3) as a, Turns(tmp_path, 1, 3) as b, Turns(tmp_path, 2, 3) as c:
            await asyncio.gather(take(c, "c", order), take(b, "b", order), take(a, "a", order))

    asyncio.run(all_three())
    assert "".join(order) == "abcabcabc"


def test_one_that_leaves_is_left_out(tmp_path):
    order: list[str] = []

    async def both() -> None:
        with Turns(tmp_path, 1, 2) as b:
            with Turns(tmp_path, 0, 2) as a:
                await asyncio.gather(take(a, "a", order, 1), take(b, "b", order, 1))
            await take(b, "b", order, 2)

    asyncio.run(both())
    assert "".join(order) == "abbb"


def test_nobody_begins_before_all_are_ready(tmp_path):
    async def first() -> bool:
        with Turns(tmp_path, 0, 2) as a, Turns(tmp_path, 1, 2):
            a.ready()
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(a.mine(never), 0.1)
        return True

    assert asyncio.run(first())


def test_one_that_never_comes_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "_LATE", 0.05)
    order: list[str] = []

    async def alone() -> None:
        with Turns(tmp_path, 1, 2) as b:
            await take(b, "b", order)

    asyncio.run(alone())
    assert order == ["b"] * 3


def test_one_that_is_stopped_waits_no_longer(tmp_path):
    async def first() -> None:
        with Turns(tmp_path, 0, 2), Turns(tmp_path, 1, 2) as b:
            await asyncio.wait_for(b.mine(lambda: True), 5)

    asyncio.run(first())


@pytest.mark.parametrize("comes", [True, False])
def test_what_an_attempt_before_left_behind_is_nobody(tmp_path, monkeypatch, comes):
    monkeypatch.setattr(turns, "_LATE", 0.5)
    for position in (0, 1):
        with Turns(tmp_path, position, 2) as one:
            one.ready()
        os.utime(tmp_path / f"{position}.present", (1, 1))
    order: list[str] = []

    async def second() -> None:
        with Turns(tmp_path, 1, 2) as b:
            taking = asyncio.ensure_future(take(b, "b", order, 2))
            await asyncio.sleep(0.1)
            assert order == []  # the other one may still come
            if comes:
                with Turns(tmp_path, 0, 2) as a:
                    await asyncio.gather(take(a, "a", order, 2), taking)
            await taking

    asyncio.run(second())
    assert "".join(order) == ("abab" if comes else "bb")
