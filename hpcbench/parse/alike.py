"""Reads lines that differ in nothing but their digits: one is matched, the others are compared with it.

A pattern that treats all digits alike cannot tell such lines apart: its groups stand at the same places in all of them.
One statement of a program wrote most lines of a dense log, so a few such shapes hold nearly all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hpcbench.formats import Line
from hpcbench.parse.columns import forget_unknown, from_digits
from hpcbench.parse.text import Text
from hpcbench.rows import Array

_MANY = 2000  # hits in a stretch: of fewer the search is as fast
_SAMPLE, _OFTEN = 128, 4  # lines that are looked at for shapes, and how many of them make one that is worth a try
_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


@dataclass(frozen=True)
class Alike:
    """The lines of a stretch that were read, one value a line; `left` are the other hits."""

    hits: Array  # where their anchors end
    stops: Array  # where their matches end
    begins: Array
    columns: list[Array]  # of the part
    left: list[int]

    def joined(
        self, at: Array, begins: Array, columns: Sequence[Array], *, paired: bool
    ) -> tuple[Array, Array, list[Array]]:
        """Add what the search read of the others: places, where their lines begin, and columns, all in order.

        A place is where an anchor ends where matches and anchors are `paired`, else where a match does.
        """
        places = np.concatenate([self.hits if paired else self.stops, at])
        order = np.argsort(places, kind="stable")
        both = zip(self.columns, columns or [np.empty(0)] * len(self.columns), strict=True)
        return (
            places[order],
            np.concatenate([self.begins, begins])[order],
            [np.concatenate(each)[order] for each in both],
        )


def read_alike(text: Text, part: Line, ends: Sequence[int]) -> Alike | None:
    """Read the lines that are alike, with hits that end at `ends`, or give None where that does not pay.

    What it reads is what the search reads, to the last bit. The last line is left where it may be cut.
    """
    if len(ends) < _MANY or not _may_be_alike(part):
        return None
    hits = np.asarray(ends)
    begins, lengths = text.lines_of(hits)
    apart = np.concatenate([[True], np.diff(begins) > 0, [True]])
    free = apart[1:] & apart[:-1]  # a line that holds the anchor twice may be two that were written at once
    stops, read = np.zeros_like(begins), np.zeros(len(hits), bool)
    columns = [np.full(len(hits), np.nan) for _ in part.columns]
    for start, stop in _shapes(text.data, begins, lengths):
        matches = list(part.regex.finditer(text.data, start, stop))
        if len(matches) != 1:
            continue
        index = np.flatnonzero(free & (lengths == stop - start))
        if not len(index):
            continue
        digits, same = _compare(text, begins[index], text.data[start:stop])
        index, values = index[same], from_digits(digits, start, matches[0], part)
        if values is None:
            continue
        for column, each in zip(columns, values, strict=True):
            column[index] = each
        stops[index] = begins[index] + (matches[0].end() - start)
        read[index], free[index] = True, False
    if 2 * np.count_nonzero(read) < len(hits):
        return None
    columns = [each[read] for each in columns]
    forget_unknown(columns, part)
    return Alike(hits[read], stops[read], begins[read], columns, hits[~read].tolist())


def _may_be_alike(part: Line) -> bool:
    kinds = [column.kind for column in part.columns]
    plain = all(kind in ("number", "int") or kind.startswith(".") for kind in kinds)
    return plain and bool(kinds) and not re.search(rb"\d", part.literal) and _treats_digits_alike(part.regex)


@lru_cache(maxsize=1024)
def _treats_digits_alike(regex: re.Pattern[bytes]) -> bool:
    r"""Tell whether a pattern names no digit but in `\d`, `0-9` of a class, and counts; when in doubt, no."""
    pattern = re.sub(rb"\(\?P<\w+>", b"(", regex.pattern)  # names of groups
    pattern = re.sub(rb"\\\D", b"", pattern)  # leaves the digits of \1 and \x31
    classes = rb"\[\^?\]?[^\]]*\]"
    pattern = re.sub(classes, lambda match: re.sub(rb"(?<!-)0-9(?!-)", b"", match[0]), pattern)
    pattern = re.sub(rb"\{\d*(?:,\d*)?\}", b"", pattern)
    return not re.search(rb"\d|\(\?P=", pattern)  # (?P=name) is the same text once more


def _shapes(data: bytes, begins: Array, lengths: Array) -> list[tuple[int, int]]:
    """Return where a line of each frequent shape begins and ends; none where they are not most of the lines."""
    # spread, but at no fixed distance: every tenth line may be of another shape
    sample = (np.arange(_SAMPLE) * 0.6180339887 % 1 * len(begins)).astype(np.int64)
    found: dict[bytes, list[tuple[int, int]]] = {}
    for start, length in zip(begins[sample].tolist(), lengths[sample].tolist(), strict=True):
        found.setdefault(data[start : start + length].translate(_ZEROS), []).append((start, start + length))
    often = [lines for shape, lines in found.items() if len(lines) >= _OFTEN and shape.endswith(b"\n")]
    return [lines[0] for lines in often] if 2 * sum(map(len, often)) > len(sample) else []


def _compare(text: Text, begins: Array, line: bytes) -> tuple[Array, Array]:
    """Tell which lines of the same length differ from `line` in nothing but digits.

    Returns also the values of their digits: those that stand at `place` are at ``[place // 8, place % 8 :: 8]``.
    """
    width = -len(line) // 8 * -8
    letters = np.frombuffer(line.ljust(width), np.uint8)
    digit = letters - np.uint8(48) <= 9
    plain = np.where(digit, 48, letters).astype(np.uint8).view("<u8")
    reach = np.where(digit, 128 - 10, 128 - 1).astype(np.uint8).view("<u8")  # 128, where what is added is too much
    words = text.letters(begins, width).view("<u8").T.copy()
    words ^= plain[:, None]  # a letter becomes 0, a digit its value
    words[-1] &= np.uint64((1 << 8 * (len(line) - width + 8)) - 1)  # not what follows the line
    wrong = np.zeros(len(begins), np.uint64)
    for word, of_word in zip(words, reach, strict=True):  # a sum runs over into the next letter only if it is too much
        wrong |= (word + of_word) | word
    same = (wrong & np.uint64(0x8080808080808080)) == 0
    return (words if same.all() else words[:, same].copy()).view(np.uint8), same
