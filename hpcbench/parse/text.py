"""A stretch of a log as lines: where they are, what surrounds a place in them, and when they were written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

import numpy as np

from hpcbench.formats import stamp
from hpcbench.rows import Array

BEFORE, AFTER = 4 << 10, 16 << 10  # of a line that is longer only so much is looked at, around an anchor
# what a launcher writes before the lines of a rank
_RANK = re.compile(rb"\[(?:default|[Rr]ank ?)?(\d{1,6})\]|(\d{1,5}): ")
_FEW = 100  # lines; of fewer one after another is faster than all at once
_STAMP = re.compile(rb"(?:[ \t]|\[[A-Za-z]{0,10} ?\d{0,6}\]:? ?|\d{1,5}: |\[){0,3}(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)")
_CLOCK = [11, 12, 14, 15, 17, 18]  # hours, minutes and seconds of a stamp
_SECONDS = np.array([36000, 3600, 600, 60, 10, 1], np.int32)
_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]  # of a stamp


class Text:
    """A stretch of a file, and where its lines are. Line numbers count from 1."""

    def __init__(self, data: bytes, marks: Array, last: bool) -> None:
        self.data, self.last = data, last
        self.cut = not data.endswith(b"\n")  # the last line of a file, or one that is too long
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

    def starts_of(self, at: Array) -> Array:
        """Return where the lines of positions begin, each that of the letter before it."""
        if len(at) > 500:
            return np.asarray(self._begins[np.searchsorted(self._begins, at - 1, side="right") - 1])
        return np.array([self.data.rfind(b"\n", 0, max(0, each - 1)) + 1 for each in at.tolist()], dtype=np.int64)

    def lines_of(self, at: Array) -> tuple[Array, Array]:
        """Return where the lines of positions begin, and how long they are, their ends included."""
        index = np.searchsorted(self._begins, at - 1, side="right") - 1
        return self._begins[index], np.diff(self._begins, append=len(self.data))[index]

    def windows(self, ends: Sequence[int]) -> tuple[list[int], list[bytes]]:
        """Return where the lines of anchors begin, and their bytes; long ones are clipped."""
        data, starts, pieces, stop = self.data, [], [], -1
        rfind, find, length = data.rfind, data.find, len(data)
        for end in ends:
            if end <= stop:  # the line holds the anchor twice
                continue
            least = end - BEFORE if end > BEFORE else 0
            start = rfind(b"\n", least, end) + 1 or least
            start = max(start, stop)
            stop = find(b"\n", end, end + AFTER)
            if stop < 0:
                stop = min(length, end + AFTER)
            starts.append(start)
            pieces.append(data[start:stop])
        return starts, pieces

    def letters(self, starts: Array, width: int) -> Array:
        """Return the bytes from each start on, one row each; blanks where the text ends before."""
        padded = self._padded
        places = np.ndarray(len(padded) - width + 1, f"V{width}", padded, strides=(1,))  # all there are
        return places[np.minimum(starts, len(places) - 1)].view(np.uint8).reshape(-1, width)

    @cached_property
    def _padded(self) -> bytes:
        return self.data + b" " * 32

    def times(self, starts: Array) -> Array | None:
        """Return when lines were written that begin with a date and time: seconds since 1970.

        A stamp that names no zone is taken as UTC.
        """
        match = _STAMP.match(self.data, int(starts[0]))
        if match is None:
            return None
        stamps = self.letters(starts + (match.start(1) - int(starts[0])), 24)
        letters = stamps.T.copy()  # numpy is faster over long rows
        digits = letters - np.uint8(48)  # what is no digit is above 9
        good = (digits[_DIGITS] <= 9).all(axis=0) & (letters[[13, 16]] == 58).all(axis=0)
        seconds = self._days(stamps[:, :10]) + _SECONDS @ digits[_CLOCK].astype(np.int32)
        point = (letters[19] == 44) | (letters[19] == 46)
        fraction = point & (digits[20:23] <= 9).all(axis=0)
        thousandths = np.array([100, 10, 1], np.int32) @ digits[20:23].astype(np.int32)
        return np.where(good, seconds + np.where(fraction, thousandths, 0) / 1000, np.nan)

    def ranks(self, starts: Array) -> Array | None:
        """Return the rank that a launcher says wrote each of the lines, or None where it says none."""
        if len(starts) < _FEW:
            return self._ranks(starts, range(len(starts)))
        letters = self.letters(starts, 8).T.copy()
        digit = letters - np.uint8(48) <= 9
        bracket = letters[0] == 91
        possible = bracket & np.isin(letters[1], (68, 82, 100, 114))  # [default0], [rank0]
        for width in range(1, 6):  # `12: `
            possible |= digit[:width].all(axis=0) & (letters[width] == 58) & (letters[width + 1] == 32)
        for width in range(2, 8):  # [12]
            possible |= bracket & digit[1:width].all(axis=0) & (letters[width] == 93)
        return self._ranks(starts, np.flatnonzero(possible).tolist())

    def _ranks(self, starts: Array, possible: Sequence[int]) -> Array | None:
        matches = [(index, _RANK.match(self.data, int(starts[index]))) for index in possible]
        known = [(index, float(match[1] or match[2])) for index, match in matches if match]
        if not known:
            return None
        found = np.full(len(starts), np.nan)
        indices, values = zip(*known, strict=True)
        found[list(indices)] = values
        return found

    def _days(self, letters: Array) -> Array:
        """Return when days such as ``2025-10-13`` began, in seconds since 1970."""
        alike = bool((letters == letters[0]).all())
        names = np.ascontiguousarray(letters[:1] if alike else letters).view("S10").ravel()
        days, index = np.unique(names, return_inverse=True)
        seconds = np.full(len(days), np.nan)
        for number, day in enumerate(days.tolist()):
            with suppress(ValueError):
                seconds[number] = stamp(day.decode(errors="replace"))
        return np.asarray(np.full(len(letters), seconds[0]) if alike else seconds[index])

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
        return shown_line(self.data[start : at + 300 if stop < 0 else stop])


def shown_line(line: bytes) -> str:
    """Write a line of a log so that it can be shown: single blanks, no control characters, at most 500 letters."""
    words = " ".join(line[:2000].decode(errors="replace").split())
    if not words.isprintable():
        words = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in words)
    return words[:500]


def find_all(data: bytes, text: bytes) -> Array:
    """Return where each occurrence of a text of three letters or more ends."""
    width = 8 if len(text) >= 8 else 4 if len(text) >= 4 else 2
    if len(data) < len(text):
        return np.empty(0, np.int64)
    kind = np.dtype(f"<u{width}")
    # every place in the data as a number of `width` bytes
    windows = np.ndarray(len(data) - width + 1, kind, data, strides=(1,))
    found = np.flatnonzero(windows == np.frombuffer(text, kind, 1)[0])
    found = found[found <= len(data) - len(text)]
    rest = np.frombuffer(text, np.uint8)[width:]
    letters = np.frombuffer(data, np.uint8)
    same = (letters[found[:, None] + np.arange(width, len(text))] == rest).all(axis=1)
    return np.asarray(found[same] + len(text))
