"""What comes back from a site: its answers, and an archive of files that nobody here wrote."""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import IO

from hpcbench.errors import RunError, SiteError
from hpcbench.metrics import shown

MAX_FILE = 1 << 30  # bytes of one file that is fetched without being asked for
_MAX_LINE = 1 << 20


@dataclass
class Fetched:
    """What a fetch brought: files by their path below the run, bytes, and what was left with the reason."""

    files: list[str] = field(default_factory=list)
    size: int = 0
    left: dict[str, str] = field(default_factory=dict)


class Answers:
    """Reads the lines, texts and files that a script of ``common.sh`` writes, as they come."""

    def __init__(self, where: str, on_line: Callable[[list[str]], None] | None = None) -> None:
        self.where = where
        self.lines: list[list[str]] = []
        self.texts: dict[str, tuple[int, str]] = {}
        self.archive: IO[bytes] | None = None
        self._on_line = on_line
        self._rest = b""
        self._text: tuple[str, int, int] | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if self.archive is not None:
            self.archive.write(data)
            return
        self._rest += data
        while self.archive is None:
            if self._text is not None:
                name, status, length = self._text
                if len(self._rest) <= length:
                    return
                self.texts[name] = (status, self._rest[:length].decode(errors="replace"))
                self._rest, self._text = self._rest[length + 1 :], None
                continue
            line, found, rest = self._rest.partition(b"\n")
            if not found:
                if len(line) > _MAX_LINE:
                    raise SiteError(f"{self.where} sends something else than answers")
                return
            self._rest = rest
            self._line(line.decode(errors="replace").split("\t"))

    def _line(self, words: list[str]) -> None:
        if words[0] != "hb" or len(words) < 2:
            return  # a login shell greets
        if words[1] == "text" and len(words) == 5:
            try:
                self._text = (words[2], int(words[3]), int(words[4]))
            except ValueError:
                raise SiteError(f"{self.where} sends something else than answers") from None
            return
        if words[1] == "files":
            self.archive = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
            self.archive.write(self._rest)
            self._rest = b""
            return
        self.lines.append(words[1:])
        if self._on_line is not None:
            self._on_line(words[1:])

    def said(self, word: str) -> Iterator[list[str]]:
        """Yield what follows `word` in each line that begins with it."""
        return (line[1:] for line in self.lines if line[0] == word)

    def check(self) -> None:
        """Raise `SiteError` with the one line in which the site said what is wrong."""
        for problem in self.said("problem"):
            raise SiteError(f"{self.where}: {shown(' '.join(problem), 500)}")


def known(folder: Path, cases: Collection[str]) -> bytes:
    """List the files here as a site's script lists its own: path, size, time."""
    lines: list[str] = []

    def walk(place: Path, below: str) -> None:
        try:
            entries = list(os.scandir(place))
        except OSError:
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                walk(Path(entry.path), f"{below}/{entry.name}")
            elif entry.is_file(follow_symlinks=False) and entry.name.isprintable():
                stat = entry.stat(follow_symlinks=False)
                seconds, rest = divmod(stat.st_mtime_ns, 10**9)
                lines.append(f"{below}/{entry.name}\t{stat.st_size}\t{seconds}.{rest:09d}\n")

    for name in (*cases, "groups"):
        walk(folder / name, f"./{name}")
    return "".join(lines).encode(errors="surrogateescape")


def unpack(archive: IO[bytes], folder: Path, bundles: Mapping[str, Collection[str]], limit: int = MAX_FILE) -> Fetched:
    """Write the files of a site's archive into a run's folder.

    `bundles` maps each case to the names of the files that were rendered for it: these stay as they are, and so does
    everything outside the cases. Only plain files are taken, under plain names, each written aside and renamed. Raises
    `SiteError` where the archive is cut short or damaged; what came before that is kept.
    """
    fetched = Fetched()
    archive.seek(0)
    try:
        # tarfile's own way through gzip looks at no checksum
        with gzip.GzipFile(fileobj=archive) as plain, tarfile.open(fileobj=plain, mode="r|") as members:
            for member in members:
                if member.isdir():
                    continue
                path = _taken(fetched, member.name, member.size, folder, bundles, limit, plain=member.isreg())
                if path is not None:
                    stream = members.extractfile(member)
                    assert stream is not None
                    _write(path, stream, member.size, member.pax_headers.get("mtime", str(member.mtime)))
            while plain.read(1 << 20):  # to the end, where the checksum is
                pass
    except OSError as error:
        if error.errno is not None:
            raise SiteError(f"cannot write in {folder}/: {error.strerror}") from None
        raise SiteError(f"the files did not arrive whole: {error}") from None
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:  # and what a hostile header raises
        raise SiteError(f"the files did not arrive whole: {error}") from None
    return fetched


def unpack_zip(file: Path, folder: Path, bundles: Mapping[str, Collection[str]], limit: int = MAX_FILE) -> Fetched:
    """Write the results that a notebook or Modal packed into a run's folder, as `unpack` does; raises `RunError`."""
    fetched = Fetched()
    try:
        with zipfile.ZipFile(file) as members:
            if not any(
                PurePosixPath(name).parts[:1] and PurePosixPath(name).parts[0] in bundles for name in members.namelist()
            ):
                raise RunError(f"{file} holds no case of this run")
            for member in members.infolist():
                if member.is_dir():
                    continue
                plain = (member.external_attr >> 28) in (0, 8)  # its mode says a regular file, or nothing
                path = _taken(fetched, member.filename, member.file_size, folder, bundles, limit, plain=plain)
                if path is not None:
                    with members.open(member) as stream:
                        _write(path, stream, member.file_size, None)
    except OSError as error:
        raise RunError(f"{error.filename or file}: {error.strerror or error}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise RunError(f"{file} is no whole zip file: {error}") from None
    return fetched


def _taken(
    fetched: Fetched, name: str, size: int, folder: Path, bundles: Mapping[str, Collection[str]], limit: int, *,
    plain: bool,
) -> Path | None:  # fmt: skip
    """Return where a file of an archive goes and count it; None where it does not, and note why."""
    path = PurePosixPath(name)
    parts = [part for part in path.parts if part != "."]
    why = ""
    if not plain:
        why = "is no plain file"
    elif path.is_absolute() or ".." in parts or len(parts) < 2 or not name.isprintable():
        why = "is not a plain path inside a case"
    elif parts[0] == "groups":
        if len(parts) != 2 or not parts[1].endswith(".log"):
            return None
    elif parts[0] not in bundles:
        why = "is in no case of this run"
    elif parts[1] in {PurePosixPath(each).parts[0] for each in bundles[parts[0]]}:
        return None  # what was sent
    if not why and size > limit:
        why = f"has {size} bytes, more than {limit}"
    target = folder.joinpath(*parts)
    if not why and (
        not target.parent.resolve().is_relative_to(folder.resolve()) or target.is_dir() or target.is_symlink()
    ):
        why = "is something else here"
    if why:
        fetched.left[shown(name, 200)] = why
        return None
    fetched.files.append("/".join(parts))
    fetched.size += size
    return target


def _write(path: Path, stream: IO[bytes], size: int, time: str | None) -> None:
    """Write a file of `size` bytes whole: aside, then in place; `time` is its modification time in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:200]}.part")
    try:
        written = 0
        with aside.open("wb") as out:
            while block := stream.read(1 << 20):
                written += len(block)
                if written > size:
                    break
                out.write(block)
        if written != size:
            raise ValueError(f"{path.name} has not the size it should have")  # noqa: TRY301
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if time is not None:
        with contextlib.suppress(InvalidOperation, ValueError, OverflowError, OSError):  # a time that no file can have
            nanoseconds = int(Decimal(time) * 10**9)
            os.utime(aside, ns=(nanoseconds, nanoseconds))
    aside.replace(path)
