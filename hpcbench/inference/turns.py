"""Turns: endpoints that are compared are measured in the same minutes, one at a time, block by block.

Each endpoint's case is a process of its own. Who is there holds a lock on a file of their own, so one that ends,
however it does, is left out at once; a file says whose turn it is. All of it lies in a folder that the cases share.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_POLL = 0.01  # seconds between looks
_LATE = 30.0  # seconds after which one that never came is not waited for; all are started together


class Turns:
    """One participant. Use it as a context manager: whoever leaves has no more turns."""

    def __init__(self, folder: Path, position: int, count: int) -> None:
        self._folder, self._position, self._count = folder, position, count
        self._here: IO[bytes] | None = None
        self._since = 0.0

    def __enter__(self) -> Turns:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ready(self._position).unlink(missing_ok=True)
        mine = self._present(self._position)
        aside = mine.with_suffix(f".{os.getpid()}")
        self._here = aside.open("wb")
        fcntl.flock(self._here, fcntl.LOCK_EX)
        aside.replace(mine)  # whoever sees it sees it locked
        self._since = time.time()
        return self

    def __exit__(self, *_: object) -> None:
        if self._here is not None:
            self._here.close()

    def ready(self) -> None:
        """Say that this endpoint answers by now: until all do, or are gone, nobody begins."""
        self._ready(self._position).touch()

    async def mine(self, stopped: Callable[[], bool]) -> None:
        """Wait for this participant's turn, or until it is stopped."""
        while not stopped() and not self._is_mine():
            await asyncio.sleep(_POLL)

    def next(self) -> None:
        """Hand the turn on."""
        with self._turn() as turn:
            turn[0] = (self._position + 1) % self._count

    def _is_mine(self) -> bool:
        others = [other for other in range(self._count) if other != self._position]
        if any(self._is_there(other) and not self._ready(other).exists() for other in others):
            return False
        with self._turn() as turn:
            while turn[0] != self._position and not self._is_there(turn[0]):
                turn[0] = (turn[0] + 1) % self._count
            return turn[0] == self._position

    def _is_there(self, other: int) -> bool:
        """Tell whether a participant is at work, or may still come."""
        came = -math.inf
        try:
            with self._present(other).open("rb") as file:
                came = os.fstat(file.fileno()).st_mtime
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except BlockingIOError:
            return True
        # gone, if it came with this one; else that was in an earlier attempt
        return came < self._since - _LATE and time.time() - self._since < _LATE

    @contextlib.contextmanager
    def _turn(self) -> Iterator[list[int]]:
        """Read whose turn it is, and write it if it is another's afterwards; nobody else does meanwhile."""
        with (self._folder / "turn").open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            said = file.read(8).strip()
            turn = [int(said) % self._count if said.isdigit() else 0]
            before = turn[0]
            yield turn
            if turn[0] != before or not said:
                os.ftruncate(file.fileno(), 0)
                file.write(b"%d\n" % turn[0])

    def _present(self, position: int) -> Path:
        return self._folder / f"{position}.present"

    def _ready(self, position: int) -> Path:
        return self._folder / f"{position}.ready"
