"""The groups of matches to columns of numbers and text, in SI units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcbench.formats import FACTORS, POWERS, Column, Line, duration, in_si, size, stamp
from hpcbench.rows import Array, objects

_MANY = 200  # rows from which a reader of CSV converts them
_DECIMAL = re.compile(rb"(-?)(\d+)(?:\.(\d+))?(?:[eE](?:(-)|\+)?(\d\d?))?")
_EXACT = 15  # digits of which every number is a float
_TENS = np.array([float(10**power) for power in range(23)])  # those that are floats exactly


def convert(rows: list[Any], part: Line) -> tuple[list[Array], Array | None]:
    """Turn the groups of matches into columns in SI units; rows with a number that is none are left out.

    Returns the columns and, where rows were left out, the positions of those that stay.
    """
    if not rows or not part.columns:
        return [], None
    columns = _quick(rows, part) if len(rows) >= _MANY else None
    good = None
    if columns is None:
        columns, good = _one_by_one(rows, part)
    forget_unknown(columns, part)
    return columns, good


def forget_unknown(columns: Sequence[Array], part: Line) -> None:
    """Make NaN of the numbers that a program prints when it does not know."""
    for values, column in zip(columns, part.columns, strict=True):
        if column.name in part.unknown:
            values[values == in_si(repr(part.unknown[column.name]), column.unit)] = np.nan


def _one_by_one(rows: list[Any], part: Line) -> tuple[list[Array], Array | None]:
    columns: list[Array] = []
    bad: set[int] = set()
    for column, texts in zip(part.columns, zip(*rows, strict=True), strict=True):
        if column.kind in ("word", "text"):
            columns.append(objects([text.decode(errors="replace").strip() or None for text in texts]))
            continue
        if (plain := _plain(texts, column)) is not None:
            columns.append(plain)
            continue
        values = np.empty(len(texts))
        for index, text in enumerate(texts):
            try:
                values[index] = _value(text, column.kind, column.unit)
            except ValueError:
                bad.add(index)
        columns.append(values)
    if not bad:
        return columns, None
    good = np.asarray([index for index in range(len(rows)) if index not in bad], dtype=np.int64)
    return [column[good] for column in columns], good


def _plain(texts: Sequence[bytes], column: Column) -> Array | None:
    """Convert decimals as `in_si` does, with less ado; or give None where one of them is anything else."""
    if column.kind not in ("number", "int") and not column.kind.startswith("."):
        return None
    power = b"e%d" % POWERS[column.unit] if column.unit in POWERS else b""
    factor = FACTORS.get(column.unit, 1)
    try:
        values = np.array([float(text + power) * factor if text else np.nan for text in texts])
    except ValueError:
        return None
    return None if any(b"_" in text for text in texts) else values


def _quick(rows: list[Any], part: Line) -> list[Array] | None:
    """Convert many rows at once, or give None: what is not plain is left to `_one_by_one`.

    pyarrow reads decimals as exactly as `float` does. A decimal unit moves the point before that, as in `in_si`.
    """
    kinds = [column.kind for column in part.columns]
    if not all(kind in ("number", "int", "word", "text") or kind.startswith(".") for kind in kinds):
        return None
    from pyarrow import ArrowInvalid, BufferReader, csv, float64, string

    powers = [b"e%d" % POWERS[column.unit] if column.unit in POWERS else b"" for column in part.columns]
    if any(powers):
        row = b"\x1f".join(b"%%b%b" % power for power in powers)
        text = b"\n" + b"\n".join([row % each for each in rows])
        for power in filter(None, powers):  # a number that is missing has none
            text = text.replace(b"\x1f" + power, b"\x1f").replace(b"\n" + power, b"\n")
        text = text[1:]
    else:
        text = b"\n".join(map(b"\x1f".join, rows))
    names = [str(index) for index in range(len(kinds))]
    types = [string() if kind in ("word", "text") else float64() for kind in kinds]
    try:
        table = csv.read_csv(
            BufferReader(text),
            read_options=csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
            parse_options=csv.ParseOptions(quote_char=False, delimiter="\x1f", ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=dict(zip(names, types, strict=True)), null_values=[""], strings_can_be_null=True
            ),
        )
    except ArrowInvalid:
        return None
    if len(table) != len(rows):
        return None
    columns: list[Array] = []
    for column, found in zip(part.columns, table.columns, strict=True):
        if column.kind in ("word", "text"):
            columns.append(objects([None if each is None else each.strip() or None for each in found.to_pylist()]))
            continue
        values = found.to_numpy(zero_copy_only=False).astype(float, copy=True)
        if column.unit and column.unit not in POWERS:
            values *= in_si("1", column.unit)
        columns.append(values)
    return columns


def _value(text: bytes, kind: str, unit: str) -> float:
    if not text:
        return np.nan
    if kind == "clock":
        return duration(text)
    if kind == "stamp":
        return stamp(text.decode())
    if kind == "size":
        return size(text)
    if kind == "thousands":
        text = text.replace(b",", b"")
    return in_si(text, unit)


def from_digits(digits: Array, start: int, match: re.Match[bytes], part: Line) -> list[Array] | None:
    """Turn lines that differ from a matched one in nothing but digits into columns; None if a number is not plain.

    The matched line begins at `start`. The digits that stand `place` letters from where the lines begin have the
    values ``digits[place // 8, place % 8 :: 8]``. A column that all lines leave out has one value.
    """
    columns = []
    for index, column in enumerate(part.columns, 1):
        if not match[index]:  # left out
            columns.append(np.array([np.nan]))
            continue
        number = _DECIMAL.fullmatch(match[index])
        values = _decimals(digits, match.start(index) - start, number, column.unit) if number else None
        if values is None:
            return None
        columns.append(values)
    return columns


def _decimals(digits: Array, at: int, number: re.Match[bytes], unit: str) -> Array | None:
    """Return the numbers that stand where one like them stands, as `in_si` reads them.

    Both their digits and the power of ten are floats exactly, so that there is one rounding; else give None.
    """

    def whole(*groups: int) -> Array:
        value = np.zeros(digits.shape[1] // 8, np.int64)
        for place in (at + place for group in groups for place in range(*number.span(group))):
            value *= 10
            value += digits[place // 8, place % 8 :: 8]
        return value

    minus, integer, fraction, minus_power, exponent = number.groups(b"")
    shift = POWERS.get(unit, 0)
    power = np.array([-len(fraction) if exponent else shift - len(fraction)])
    if exponent:
        power = power - whole(5) if minus_power else power + whole(5)
    if len(integer + fraction) > _EXACT or np.abs(power).max() >= len(_TENS):
        return None
    values = whole(2, 3) / _TENS[np.maximum(-power, 0)] * _TENS[np.maximum(power, 0)]
    if exponent and shift:  # which `in_si` rounds twice
        values *= 10.0**shift
    values *= FACTORS.get(unit, 1)
    return np.asarray(-values if minus else values)
