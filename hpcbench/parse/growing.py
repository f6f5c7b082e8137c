"""Logs that still grow: only what is new is read."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from hpcbench.parse.content import Content, assemble
from hpcbench.parse.engine import Choice, Piece, scanner
from hpcbench.parse.files import read_file
from hpcbench.parse.streams import STRETCH, UnreadableError, members
from hpcbench.rows import Rows

_WHOLE = 64 << 20  # bytes of a document, which is read whole each time it changes
_BOM = b"\xef\xbb\xbf"


class Growing:
    """A log, read as far as its last whole line. One that was replaced or cut is read from its beginning.

    A document, as JSON is, and a packed file are read anew whenever they change; an archive is not read.
    """

    def __init__(self, file: Path, choice: Choice) -> None:
        self.file, self.choice = file, choice
        self._pieces: list[Piece] = []
        self._inode, self._offset = -1, 0
        self._seen: tuple[int, int, int] | None = None  # inode, size and time of change
        self._plain = True
        self._packed: Content | None = None
        self._begun: set[bytes] = set()  # what a document is known by, in the line that has no end yet

    def update(self) -> bool:
        """Read what is new; returns whether there was anything."""
        try:
            with self.file.open("rb") as stream:
                stat = os.fstat(stream.fileno())
                seen = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                if seen == self._seen:
                    return False
                self._seen = seen
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._pieces, self._inode, self._offset = [], stat.st_ino, 0
                if not self._offset:
                    self._plain = self._is_plain()
                if not self._plain:
                    self._packed = self._unpacked()
                    return True
                began = self._offset
                data = b""
                while self._offset < stat.st_size:
                    stream.seek(self._offset)
                    data = stream.read(min(STRETCH, stat.st_size - self._offset))
                    whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == STRETCH else b"")
                    if not whole:
                        break
                    text = whole if self._offset else whole.removeprefix(_BOM)
                    self._pieces.append(scanner(self.choice).scan(text, last=False))
                    self._offset += len(whole)
                    data = data[len(whole) :]
                # a JSON file often ends without a line break: what it is stands in a line that is never whole
                self._begun = scanner(self.choice).scan(data).sniffed if data else set()
                return self._offset > began or self._is_document()
        except OSError:
            self._seen = None
            return False

    def content(self) -> Content:
        """Return what the file holds as far as it was read."""
        if not self._plain:
            packed = self._packed or Content({}, [], 0, 0, 0)
            tables = {name: Rows(rows.line, rows.columns) for name, rows in packed.tables.items()}
            return replace(packed, tables=tables)  # whoever asks may add columns
        pieces = [*self._pieces, Piece(0, 0, sniffed=self._begun)]
        return assemble(scanner(self.choice), pieces, cache(self._whole), self.file.name)

    def last_step(self) -> dict[str, float] | None:
        """Return the numbers of the last training step, or None."""
        for piece in reversed(self._pieces):
            steps = assemble(scanner(self.choice), [piece], lambda: None).tables.get("steps")
            if steps is not None and len(steps):
                *_, (_, last) = steps.records()
                return {name: value for name, value in last.items() if isinstance(value, int | float)}
        return None

    def _is_plain(self) -> bool:
        try:
            return next(members(self.file)).plain
        except (UnreadableError, StopIteration):
            return False

    def _is_document(self) -> bool:
        """Tell whether the file may be of a format that is read whole."""
        chosen = scanner(self.choice)
        sniffed = self._begun.union(*(piece.sniffed for piece in self._pieces))
        return any(chosen.forced or chosen.sniff[index] <= sniffed for index in chosen.documents)

    def _whole(self) -> bytes | None:
        with suppress(OSError):
            if self.file.stat().st_size <= _WHOLE:
                return self.file.read_bytes().removeprefix(_BOM)
        return None

    def _unpacked(self) -> Content | None:
        """Read a packed file; None where it is an archive, which is written at once, or cannot be read."""
        with suppress(UnreadableError):
            member = next(members(self.file), None)
            if member is not None and not member.name:
                return next(content for _, content, _ in read_file(str(self.file), self.choice))
        return None
