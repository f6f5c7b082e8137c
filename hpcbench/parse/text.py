"""A stretch of a log as lines: where they are, what surrounds a place in them, and when they were written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from functools import cached_property

import numpy as np

from hpcbench.parse.rows import Array

BEFORE, AFTER = 4 << 10, 16 << 10  # of a line that is longer only so much is looked at, around an anchor
RANK = rb"^(?:\[(?:default|[Rr]ank ?)?\d{1,6}\]|\d{1,5}: )"  # what a launcher writes before the lines of a rank
_RANK_OF = re.compile(rb"\[?(?:default|[Rr]ank ?)?(\d{1,6})")
_STAMP = re.compile(rb"(?:[ \t]|\[[A-Za-z]{0,10} ?\d{0,6}\]:? ?|\d{1,5}: |\[){0,3}(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)")
_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]  # of a stamp


class Text:
    """A stretch of a file, and where its lines are. Line numbers count from 1."""

    def __init__(self, data: bytes, marks: Array, last: bool) -> None:
        self.data, self.last = data, last
        self.cut = last and not data.endswith(b"\n")
        self._marks = marks
        self._index: tuple[Array, Array] | None = None

    @cached_property
    def _begins(self) -> Array:
        """Where lines begin, also those that a carriage return ended."""
        return np.concatenate([[0], np.flatnonzero(np.frombuffer(self.data, np.uint8) == 10) + 1])

    @cached_property
    def longest_line(self) -> int:
        """The length of the longest line, its end included."""
        return int(np.diff(np.append(self._begins, len(self.data) + 1)).max())

    def line_of(self, at: Array) -> Array:
        """Return the lines of positions, each that of the letter before it."""
        if self._index is None:
            bits = np.packbits(self._marks, bitorder="little")
            words = np.zeros((len(bits) + 16) // 8, np.uint64)
            words.view(np.uint8)[: len(bits)] = bits
            self._index = words, np.concatenate([[0], np.cumsum(np.bitwise_count(words), dtype=np.int64)])
        words, before = self._index
        before_letter = np.maximum(np.asarray(at, dtype=np.int64) - 1, 0)
        word, bit = before_letter >> 6, (before_letter & 63).astype(np.uint64)
        inside = np.bitwise_count(words[word] & ((np.uint64(1) << bit) - np.uint64(1)))
        return np.asarray(before[word] + inside.astype(np.int64) + 1)

    def windows(self, ends: Sequence[int]) -> tuple[list[int], list[bytes]]:
        """Return where the lines of anchors begin, and their bytes; long ones are clipped."""
        data, starts, pieces, stop = self.data, [], [], -1
        for end in ends:
            if end <= stop:  # the line holds the anchor twice
                continue
            start = data.rfind(b"\n", max(0, end - BEFORE), end) + 1 or max(0, end - BEFORE)
            start = max(start, stop)
            stop = data.find(b"\n", end, end + AFTER)
            stop = min(len(data), end + AFTER) if stop < 0 else stop
            starts.append(start)
            pieces.append(data[start:stop])
        return starts, pieces

    def times(self, at: Array) -> Array | None:
        """Return when the lines of positions were written, where they begin with a date and time: seconds since 1970.

        A stamp that names no zone is taken as UTC.
        """
        sample = self.data.rfind(b"\n", 0, max(0, int(at[0]) - 1)) + 1
        match = _STAMP.match(self.data, sample)
        if match is None:
            return None
        offset = match.start(1) - sample
        if len(at) > 500:
            starts = self._begins[np.searchsorted(self._begins, at - 1, side="right") - 1] + offset
        else:
            starts = np.array([self.data.rfind(b"\n", 0, max(0, each - 1)) + 1 for each in at.tolist()]) + offset
        letters = np.frombuffer(self.data + b" " * 32, np.uint8)[starts[:, None] + np.arange(23)]
        digits = letters.astype(np.int16) - 48
        good = ((digits[:, _DIGITS] >= 0) & (digits[:, _DIGITS] <= 9)).all(axis=1)
        good &= (letters[:, [4, 7]] == 45).all(axis=1) & (letters[:, [13, 16]] == 58).all(axis=1)
        days, index = np.unique(np.ascontiguousarray(letters[:, :10]).view("S10").ravel(), return_inverse=True)
        seconds = np.full(len(days), np.nan)
        for number, day in enumerate(days.tolist()):
            with suppress(ValueError):
                seconds[number] = stamp(day.decode(errors="replace"))
        clock = np.zeros(len(at))
        for column, weight in ((11, 36000), (12, 3600), (14, 600), (15, 60), (17, 10), (18, 1)):
            clock += digits[:, column] * float(weight)
        fraction = ((letters[:, 19] == 44) | (letters[:, 19] == 46)) & (
            (digits[:, 20:23] >= 0) & (digits[:, 20:23] <= 9)
        ).all(axis=1)
        clock += np.where(fraction, digits[:, 20:23] @ np.array([100, 10, 1]) / 1000, 0)
        return np.where(good, seconds[index] + clock, np.nan)

    def whole_line(self, start: int) -> bytes | None:
        """Return the line that begins at `start`, or None where it is cut short or has no end in sight."""
        stop = self.data.find(b"\n", start, start + (64 << 20))
        if stop < 0:
            return self.data[start:] if len(self.data) - start < (64 << 20) else None
        return self.data[start:stop]

    def line_at(self, at: int) -> str:
        """Return the text of the line around a position, fit to be shown."""
        start = max(self.data.rfind(b"\n", max(0, at - 300), max(0, at - 1)) + 1, at - 300, 0)
        stop = self.data.find(b"\n", max(0, at - 1), at + 300)
        words = " ".join(self.data[start : at + 300 if stop < 0 else stop].decode(errors="replace").split())
        return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)[:500]


def ranks(text: Text, ends: list[int]) -> tuple[Array, Array]:
    """Return the lines of ranks' prefixes that end at `ends`, and the rank of each."""
    lines = text.line_of(np.asarray(ends))
    ranks = []
    for end in ends:
        start = text.data.rfind(b"\n", max(0, end - 40), end) + 1
        match = _RANK_OF.match(text.data, start)
        ranks.append(float(match[1]) if match else np.nan)
    return lines, np.asarray(ranks)


def stamp(text: str) -> float:
    """Read a date and time in seconds since 1970; one that names no zone is taken as UTC. Raises `ValueError`."""
    found = datetime.fromisoformat(text.replace(",", ".").replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()
