"""Logs that still grow: only what is new is read."""

from __future__ import annotations

import os
from pathlib import Path

from hpcbench.parse.content import Content, assemble
from hpcbench.parse.engine import Choice, Piece, scanner
from hpcbench.parse.streams import STRETCH


class Growing:
    """A plain log, read as far as its last whole line. A file that was replaced or cut is read from its beginning."""

    def __init__(self, file: Path, choice: Choice) -> None:
        self.file, self.choice = file, choice
        self._pieces: list[Piece] = []
        self._inode, self._offset = -1, 0

    def update(self) -> bool:
        """Read what is new; returns whether there was anything."""
        try:
            with self.file.open("rb") as stream:
                stat = os.fstat(stream.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._pieces, self._inode, self._offset = [], stat.st_ino, 0
                began = self._offset
                while self._offset < stat.st_size:
                    stream.seek(self._offset)
                    data = stream.read(min(STRETCH, stat.st_size - self._offset))
                    whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == STRETCH else b"")
                    if not whole:
                        break
                    self._pieces.append(scanner(self.choice).scan(whole, last=False))
                    self._offset += len(whole)
                return self._offset > began
        except OSError:
            return False

    def content(self) -> Content:
        """Return what the file holds as far as it was read; documents, which are read at once, are left out."""
        return assemble(scanner(self.choice), self._pieces, lambda: None, self.file.name)

    def last_step(self) -> dict[str, float] | None:
        """Return the numbers of the last training step, or None."""
        for piece in reversed(self._pieces):
            steps = assemble(scanner(self.choice), [piece], lambda: None).tables.get("steps")
            if steps is not None and len(steps):
                *_, (_, last) = steps.records()
                return {name: value for name, value in last.items() if isinstance(value, int | float)}
        return None
