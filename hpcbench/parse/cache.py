"""What was read from files, kept between runs: a file of the same size and time is not read again.

A shard is a folder that holds one batch as Parquet: ``files.parquet`` (path, size, time of change and inode of each
file), ``logs.parquet`` and the batch's tables. Shards lie under a folder whose name is a hash of all that decides how a
file is read: this package's own code, the formats chosen and the user's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.parse.engine import Choice
from hpcbench.parse.files import FILE, Batch, Log
from hpcbench.rows import Rows, joined

_LIMIT = 2 << 30  # bytes; the shards used longest ago go first
_SHARD = 500_000  # logs and rows that fill a shard
_FRESH = 2.0  # seconds: a file that changed so lately may change again within its time stamp

# path, size, time of change in ns, inode
Key = tuple[str, int, int, int]


def key(path: str, stat: os.stat_result | None) -> Key | None:
    """Return what tells whether a file is the same as before, or None where it could not be asked."""
    return None if stat is None else (_absolute(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def _absolute(path: str) -> str:
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


class Cache:
    """The batches that were read with one choice of formats."""

    def __init__(self, choice: Choice, folder: Path | None = None) -> None:
        self._folder = (folder or _default_folder()) / _fingerprint(choice)
        self._waiting: list[tuple[dict[str, Key], Batch]] = []
        self._count = 0  # logs and rows that wait

    def known(self, keys: Mapping[str, Key | None]) -> list[tuple[list[str], Batch]]:
        """Return what was read before of the files of `keys`: the files and a batch, a shard at a time.

        A file has the name that it has in `keys`, whatever it was called when it was read: ``logs/a``, or from ``/``.
        """
        wanted = {each: file for file, each in keys.items() if each is not None}
        batches: list[tuple[list[str], Batch]] = []
        for shard in self._shards():
            try:
                table = _load(shard / "files.parquet")
                rows = zip(table["path"], table["size"], table["changed"], table["inode"], strict=True)
                here = {at: wanted.pop(row) for at, row in enumerate(rows) if row in wanted}
                if here:
                    batches.append((list(here.values()), _read(shard, here)))
                    os.utime(shard)
            except Exception:  # noqa: BLE001 - whatever is wrong with it, its files are read again
                shutil.rmtree(shard, ignore_errors=True)
                done = {file for files, _ in batches for file in files}
                wanted = {each: file for file, each in keys.items() if each is not None and file not in done}
        return batches

    def _shards(self) -> list[Path]:
        """Return the shards, the latest first."""
        try:
            return sorted((each for each in self._folder.iterdir() if each.name[0] != "."), reverse=True)
        except OSError:
            return []

    def add(self, keys: Mapping[str, Key | None], batch: Batch, now: float) -> None:
        """Keep a batch of files that were looked at at `now`; small ones wait until they fill a shard."""
        good = {file: each for file, each in keys.items() if each is not None and now - each[2] / 1e9 > _FRESH}
        if not good:
            return
        # whoever reads the batch numbers its files anew
        tables = {name: Rows(rows.line, dict(rows.columns)) for name, rows in batch.tables.items()}
        self._waiting.append((good, Batch(list(batch.logs), tables)))
        self._count += len(batch.logs) + sum(map(len, tables.values()))
        if self._count > _SHARD:
            self._store()

    def close(self) -> None:
        """Keep what waits, and delete what is too much."""
        if self._waiting:
            self._store()
        self._trim()

    def _store(self) -> None:
        """Write a shard; where that cannot be done, nothing is kept."""
        waiting, self._waiting, self._count = self._waiting, [], 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
            try:
                _write(aside, waiting)
                aside.rename(self._folder / f"{time.time_ns():020d}-{os.getpid()}")
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except (OSError, ValueError, TypeError):  # a full disk, a home that is read-only, what Parquet cannot hold
            return

    def _trim(self) -> None:
        """Delete the shards that were used longest ago, until the cache is within its limit."""
        with contextlib.suppress(OSError):
            shards = sorted(self._folder.parent.glob("*/*"), key=lambda shard: shard.stat().st_mtime, reverse=True)
            total = 0
            for shard in shards:
                total += sum(file.stat().st_size for file in shard.iterdir())
                if total > _LIMIT:
                    shutil.rmtree(shard, ignore_errors=True)


def _default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "hpcbench" / "parse"


@lru_cache(maxsize=8)
def _fingerprint(choice: Choice) -> str:
    digest = hashlib.sha256(repr(choice).encode())
    package = Path(__file__).parents[1]
    for file in sorted([*package.glob("parse/*.py"), *package.glob("formats/*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:20]


def _write(folder: Path, batches: Sequence[tuple[dict[str, Key], Batch]]) -> None:
    keys = {file: each for good, _ in batches for file, each in good.items()}
    position = {file: number for number, file in enumerate(keys)}
    logs: list[Log] = []
    tables: dict[str, list[Rows]] = {}
    for good, batch in batches:
        chosen = [number for number, log in enumerate(batch.logs) if log.path in good]
        renumbered = np.full(len(batch.logs), -1)
        renumbered[chosen] = np.arange(len(logs), len(logs) + len(chosen))
        logs += [batch.logs[number] for number in chosen]
        for name, rows in batch.tables.items():
            kept = rows.where(renumbered[rows.columns[FILE]] >= 0)
            kept.columns[FILE] = renumbered[kept.columns[FILE]]
            tables.setdefault(name, []).append(kept)
    names = [each.name for each in fields(Log)]
    _save(
        folder / "logs.parquet",
        {
            **{name: [getattr(log, name) for log in logs] for name in names},
            "file": [position[log.path] for log in logs],
        },
    )
    columns = ("path", "size", "changed", "inode")
    _save(folder / "files.parquet", dict(zip(columns, map(list, zip(*keys.values(), strict=True)), strict=True)))
    for name, parts in tables.items():
        rows = joined(parts)
        values = {f"c_{column}": each for column, each in rows.columns.items() if column != FILE}
        _save(folder / f"table_{name}.parquet", {"line": rows.line, "file": rows.columns[FILE], **values})


def _read(folder: Path, here: Mapping[int, str]) -> Batch:
    """Load the logs of some files of a shard, each under the name that it has here."""
    logs = _load(folder / "logs.parquet")
    names = [each.name for each in fields(Log)]
    chosen = [number for number, file in enumerate(logs["file"]) if file in here]
    batch = Batch([
        Log(**{**{name: logs[name][number] for name in names}, "path": here[logs["file"][number]]})
        for number in chosen
    ])  # fmt: skip
    renumbered = np.full(len(logs["file"]), -1)
    renumbered[chosen] = np.arange(len(chosen))
    for file in folder.glob("table_*.parquet"):
        table = _load(file, arrays=True)
        mask = renumbered[table["file"]] >= 0
        columns = {name.removeprefix("c_"): values[mask] for name, values in table.items() if name.startswith("c_")}
        columns[FILE] = renumbered[table["file"][mask]]
        batch.tables[file.stem.removeprefix("table_")] = Rows(table["line"][mask], columns)
    return batch


def _save(file: Path, columns: dict[str, Any]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(columns), file, compression="zstd")


def _load(file: Path, *, arrays: bool = False) -> dict[str, Any]:
    from pyarrow import parquet

    table = parquet.read_table(file, use_threads=False)
    if not arrays:
        return {name: table.column(name).to_pylist() for name in table.column_names}
    return {name: table.column(name).to_numpy() for name in table.column_names}
