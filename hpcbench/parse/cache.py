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
from collections.abc import Sequence
from dataclasses import asdict, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hpcbench.parse.engine import Choice
from hpcbench.parse.files import FILE, Batch, Log
from hpcbench.rows import Rows

_LIMIT = 2 << 30  # bytes; the shards used longest ago go first
_FRESH = 2.0  # seconds: a file that changed so lately may change again within its time stamp

# path, size, time of change in ns, inode
Key = tuple[str, int, int, int]


def key(path: str) -> Key | None:
    """Return what tells whether a file is the same as before, or None where it cannot be asked."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return (os.path.abspath(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


class Cache:
    """The batches that were read with one choice of formats."""

    def __init__(self, choice: Choice, folder: Path | None = None) -> None:
        self._folder = (folder or _default_folder()) / _fingerprint(choice)

    def known(self, keys: Sequence[Key | None]) -> list[tuple[list[int], Batch]]:
        """Return what was read before of the files of `keys`: their positions and a batch, a shard at a time."""
        wanted = {each: position for position, each in enumerate(keys) if each is not None}
        batches: list[tuple[list[int], Batch]] = []
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
                wanted = {each: position for position, each in enumerate(keys) if each is not None}
                for positions, _ in batches:
                    for position in positions:
                        wanted.pop(keys[position], None)  # type: ignore[arg-type]
        return batches

    def _shards(self) -> list[Path]:
        """Return the shards, the latest first."""
        try:
            return sorted((each for each in self._folder.iterdir() if each.name[0] != "."), reverse=True)
        except OSError:
            return []

    def store(self, keys: Sequence[Key | None], files: Sequence[str], batch: Batch, now: float) -> None:
        """Keep a batch; where that cannot be done, nothing is kept."""
        good = {
            file: each
            for file, each in zip(files, keys, strict=True)
            if each is not None and now - each[2] / 1e9 > _FRESH
        }
        if not good:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
            try:
                _write(aside, good, batch)
                aside.rename(self._folder / f"{time.time_ns():020d}-{os.getpid()}")
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        except (OSError, ValueError, TypeError):  # a full disk, a home that is read-only, what Parquet cannot hold
            return

    def trim(self) -> None:
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


def _write(folder: Path, good: dict[str, Key], batch: Batch) -> None:
    position = {file: number for number, file in enumerate(good)}
    chosen = [number for number, log in enumerate(batch.logs) if log.path in position]
    logs: dict[str, list[Any]] = {each.name: [] for each in fields(Log)}
    for number in chosen:
        for name, value in asdict(batch.logs[number]).items():
            logs[name].append(value)
    logs["file"] = [position[path] for path in logs["path"]]
    _save(folder / "logs.parquet", logs)
    files = {"path": [each[0] for each in good.values()], "size": [each[1] for each in good.values()],
             "changed": [each[2] for each in good.values()], "inode": [each[3] for each in good.values()]}  # fmt: skip
    _save(folder / "files.parquet", files)
    renumbered = np.full(len(batch.logs), -1)
    renumbered[chosen] = np.arange(len(chosen))
    for name, rows in batch.tables.items():
        kept = rows.where(renumbered[rows.columns[FILE]] >= 0)
        columns = {f"c_{column}": values for column, values in kept.columns.items() if column != FILE}
        _save(
            folder / f"table_{name}.parquet",
            {"line": kept.line, "file": renumbered[kept.columns[FILE]], **columns},
        )


def _read(folder: Path, here: dict[int, int]) -> Batch:
    """Load the logs of some files of a shard."""
    logs = _load(folder / "logs.parquet")
    names = [each.name for each in fields(Log)]
    chosen = [number for number, file in enumerate(logs["file"]) if file in here]
    batch = Batch([Log(**{name: logs[name][number] for name in names}) for number in chosen])
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
