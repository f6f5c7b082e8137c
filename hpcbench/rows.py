"""The rows of one file, as columns: what formats complete and what becomes pandas tables in the end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_COLUMNS = 200  # of a table of one file: a log that makes up columns must not fill the memory


class Rows:
    """Rows of one table: `line` (whole numbers, from 1) and columns of the same length.

    A column is an array of floats, or of objects where it holds text; a column that is not there reads as NaN.
    """

    __slots__ = ("columns", "line")

    def __init__(self, line: Array | Sequence[int], columns: Mapping[str, Array | Sequence[Any]]) -> None:
        self.line = np.asarray(line, dtype=np.int64)
        self.columns = {name: column(values) for name, values in columns.items()}

    def __len__(self) -> int:
        return len(self.line)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Array:
        found = self.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def __setitem__(self, name: str, values: Array | float | str) -> None:
        if isinstance(values, str):
            filled = np.empty(len(self), dtype=object)
            filled[:] = values
            self.columns[name] = filled
        else:
            self.columns[name] = np.broadcast_to(np.asarray(values), (len(self),)).copy()

    def numbers(self, name: str) -> Array:
        """Return a column as floats; what is no number is NaN."""
        values = self[name]
        if values.dtype != object:
            return values
        plain = [
            value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan for value in values
        ]
        return np.array(plain, dtype=np.float64)

    def where(self, mask: Array) -> Rows:
        """Return the rows of a mask or of an array of positions."""
        return Rows(self.line[mask], {name: values[mask] for name, values in self.columns.items()})

    def ordered(self) -> Rows:
        """Return the rows in the order of their lines; rows of one line stay as they were."""
        return self.where(np.argsort(self.line, kind="stable")) if np.any(np.diff(self.line) < 0) else self

    def records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield line and known values of each row."""
        for index, line in enumerate(self.line.tolist()):
            row = {name: values[index] for name, values in self.columns.items()}
            yield line, {name: value for name, value in row.items() if value is not None and value == value}  # noqa: PLR0124


# The tables of one file, by name.
Tables = dict[str, Rows]


def column(values: Array | Sequence[Any]) -> Array:
    """Make an array of floats where all values are numbers or missing, else of objects."""
    if isinstance(values, np.ndarray):
        return values
    if all(value is None or isinstance(value, int | float) for value in values):
        if any(isinstance(value, bool) for value in values) or any(
            isinstance(v, int) and abs(v) > 2**53 for v in values
        ):
            return objects(values)
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return objects(values)


def objects(values: Sequence[Any]) -> Array:
    """Make an array of objects, one a value."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def joined(parts: Iterable[Rows]) -> Rows:
    """Put rows one after another; a column that one of them lacks is missing there."""
    found = list(parts)
    if len(found) == 1:
        return found[0]
    names = dict.fromkeys(name for rows in found for name in rows.columns)
    columns: dict[str, Array] = {}
    for name in names:
        pieces = [rows.columns.get(name) for rows in found]
        if any(piece is not None and piece.dtype == object for piece in pieces):
            filled = [
                np.full(len(rows), None, dtype=object) if piece is None else piece.astype(object)
                for rows, piece in zip(found, pieces, strict=True)
            ]
        else:
            filled = [rows[name] for rows in found]
        columns[name] = np.concatenate(filled)
    return Rows(np.concatenate([rows.line for rows in found]), columns)


def from_records(records: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Tables:
    """Make tables of rows given one by one: table, line and values each."""
    grouped: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for table, line, values in records:
        grouped.setdefault(table, []).append((line, values))
    tables = {}
    for table, rows in grouped.items():
        names = list(dict.fromkeys(name for _, values in rows for name in values))[:MAX_COLUMNS]
        tables[table] = Rows(
            [line for line, _ in rows], {name: [values.get(name) for _, values in rows] for name in names}
        )
    return tables
