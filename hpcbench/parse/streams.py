"""The bytes of a log, whatever it is packed in: stretches of whole lines, in UTF-8 or any encoding that holds ASCII."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

STRETCH = 4 << 20  # bytes read at a time: what fits into a cache is looked at several times for the price of one
_PACKED: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gz"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bz2"), (b"\x28\xb5\x2f\xfd", "zst"),
)  # fmt: skip
_ARCHIVES = ((b"PK\x03\x04", "zip"),)
# what holds no lines, and may be very large: images, arrays, models, tables, programs
_BINARY = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|%PDF|\x7fELF|\x93NUMPY|\x89HDF|PAR1|SQLite format 3|ARROW1|GGUF|\x80[\x02-\x05]c?\W"
    rb"|.{8}\{\"__metadata__",
    re.DOTALL,
)
_ENCODINGS = ((codecs.BOM_UTF8, ""), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
              (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
# A packed log is some 5 to 50 times smaller than itself; what grows without end is not one.
_FREE, _GROWTH = 1 << 30, 500
_PIECE = 4 << 10  # bytes asked of a reader that gives nothing of a piece in which it finds damage
# what readers of packed files and archives raise where these are damaged
_DAMAGE = (
    OSError, EOFError, ValueError, LookupError, ArithmeticError, RuntimeError, lzma.LZMAError, zlib.error, struct.error,
    zipfile.BadZipFile, tarfile.TarError,
)  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One log in a file: the file itself, or one file of an archive. `name` is empty for the file itself."""

    name: str
    open: Callable[[], IO[bytes]]
    plain: bool = False  # neither packed nor in an archive: stretches of it can be read apart


class UnreadableError(Exception):
    """A file holds no text that could be read; the message says what it is."""


class TruncatedError(UnreadableError):
    """A packed file ends too early. What came before is true, which nobody knows where a checksum is wrong."""


def members(file: Path) -> Iterator[Member]:
    """Yield the logs in a file; raises `OSError` where it cannot be opened, `UnreadableError` where it is no text."""
    with file.open("rb") as stream:
        head = stream.read(512)
    if _BINARY.match(head):
        raise UnreadableError("binary")
    kind = next((name for magic, name in (*_PACKED, *_ARCHIVES) if head.startswith(magic)), "")
    if kind == "zip":
        yield from _zip_members(file)
        return
    if kind or head[257:262] == b"ustar":
        open_packed = _opener(file, kind)
        inner = _peek(open_packed, 512) if kind else head
        if inner[257:262] == b"ustar":
            yield from _tar_members(open_packed)
        elif _BINARY.match(inner):
            raise UnreadableError("binary")
        else:
            yield Member("", open_packed)
        return
    yield Member("", lambda: file.open("rb"), plain=not any(head.startswith(mark) for mark, _ in _ENCODINGS))


def _opener(file: Path, kind: str) -> Callable[[], _Bounded]:
    def unpacked() -> _Bounded:
        raw: Any = file.open("rb")
        if not kind:
            return _Bounded(raw.read, raw.tell, raw, STRETCH)
        return _Bounded(_unpacker(raw, kind), raw.tell, raw, _PIECE if kind == "zst" else 64 * _PIECE)

    return unpacked


def _unpacker(raw: Any, kind: str) -> Callable[[int], bytes]:
    """Return what reads a packed stream."""
    if kind == "gz":
        return gzip.GzipFile(fileobj=raw).read1
    if kind == "xz":
        return lzma.LZMAFile(raw).read1
    if kind == "bz2":
        return bz2.BZ2File(raw).read1
    import pyarrow as pa

    read: Callable[[int], bytes] = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd").read
    return read


class _Given:
    """How many bytes came out of a file."""

    def __init__(self) -> None:
        self.bytes = 0


class _Bounded(io.RawIOBase, BinaryIO):
    """A packed stream: `UnreadableError` where it is damaged, after all that is before, or grows without end.

    `read` gives the next bytes, at most `piece`; `taken` tells how many of the file's they were made of. Logs of one
    archive share `given`: many of them may grow as one does.
    """

    def __init__(
        self,
        read: Callable[[int], bytes],
        taken: Callable[[], int],
        closes: IO[bytes],
        piece: int = _PIECE,
        given: _Given | None = None,
    ) -> None:
        self._read, self.taken, self._closes, self._piece = read, taken, closes, piece
        self._given = given or _Given()
        self._problem: UnreadableError | None = None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts: list[bytes] = []
        left = size if size >= 0 else STRETCH
        while left and self._problem is None:
            try:
                data = self._read(min(left, self._piece))
            except UnreadableError as error:  # of the packed file that an archive is in
                self._problem = error
                break
            except _DAMAGE as error:
                short = isinstance(error, EOFError) or str(error).startswith(("Truncated", "unexpected end"))
                self._problem = (TruncatedError if short else UnreadableError)(f"damaged: {error}")
                break
            if not data:
                break
            parts.append(data)
            left -= len(data)
            self._given.bytes += len(data)
            if self._given.bytes > _FREE and self._given.bytes > _GROWTH * self.taken():
                self._problem = UnreadableError(f"grows beyond {_GROWTH} times its size")
        if self._problem is not None and not parts:
            raise self._problem
        return b"".join(parts)

    def close(self) -> None:
        self._closes.close()
        super().close()


class _Again(io.RawIOBase):
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, stream: Any) -> None:
        self._head, self._stream = head, stream

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._head:
            data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return data
        more: bytes = self._stream.read(size)
        return more


def _bounded_member(stream: Any, taken: Callable[[], int], given: _Given) -> _Bounded:
    """Open a file of an archive, which may itself be packed."""
    try:
        head = stream.read(8)
        kind = next((name for magic, name in _PACKED if head.startswith(magic)), "")
        again = _Again(head, stream)
        return _Bounded(_unpacker(again, kind) if kind else again.read, taken, stream, given=given)
    except _DAMAGE as error:
        raise UnreadableError(f"damaged: {error}") from None


def _peek(open_stream: Callable[[], IO[bytes]], size: int) -> bytes:
    try:
        with open_stream() as stream:
            return stream.read(size)
    except UnreadableError:
        return b""


def _zip_members(file: Path) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGE as error:
        raise UnreadableError(f"damaged: {error}") from None
    with archive:
        names = [each for each in archive.infolist() if not each.filename.endswith("/")]
        if any(re.search(r"(?:^|/)data\.pkl$|\.npy$", each.filename) for each in names):  # saved weights, not logs
            raise UnreadableError("binary")
        size, given = file.stat().st_size, _Given()

        def opener(each: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
            def unpacked() -> IO[bytes]:
                try:
                    stream: Any = archive.open(each)
                except _DAMAGE as error:
                    raise UnreadableError(f"damaged: {error}") from None
                return _bounded_member(stream, lambda: size, given)

            return unpacked

        for each in names:
            yield Member(each.filename, opener(each))


def _tar_members(open_packed: Callable[[], _Bounded]) -> Iterator[Member]:
    """Yield the plain files of a tar; each is read when the archive is at its place, so they are read in order."""
    try:
        with open_packed() as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            given = _Given()

            def opener(content: Any) -> Callable[[], IO[bytes]]:
                return lambda: _bounded_member(content, stream.taken, given)

            for each in archive:
                content = archive.extractfile(each) if each.isfile() else None
                if content is not None:
                    yield Member(each.name, opener(content))
            while stream.read(STRETCH):  # the checksum of a packed one stands at its end
                pass
    except _DAMAGE as error:
        raise UnreadableError(f"damaged: {error}") from None


def stretches(stream: IO[bytes], size: int = STRETCH) -> Iterator[tuple[bytes, bool]]:
    """Yield the bytes of a stream in stretches that end where a line ends, and with each whether it is the last.

    UTF-16 and UTF-32 come as UTF-8; every other encoding as it is. A line longer than `size` is cut. Raises
    `UnreadableError` where the stream is damaged, after what came before.
    """
    head = stream.read(4)
    mark, encoding = next(((mark, name) for mark, name in _ENCODINGS if head.startswith(mark)), (b"", ""))
    recode = codecs.getincrementaldecoder(encoding)(errors="replace") if encoding else None
    if not encoding:
        head = head[len(mark) :]
    rest, ended = b"", False
    problem: UnreadableError | None = None
    while not ended:
        parts, length = [head], len(head)
        head = b""
        while length < size and not ended:
            try:
                parts.append(stream.read(size - length))
            except UnreadableError as error:  # what came before the damage stands
                problem = error
                parts.append(b"")
            length += len(parts[-1])
            ended = not parts[-1]
        data = b"".join(parts)
        if recode is not None:
            data = recode.decode(data, ended).encode("utf-8", errors="replace")
        data = rest + data
        cut = len(data) if ended else data.rfind(b"\n") + 1
        if not cut and len(rest) >= size:
            cut = len(data)
        rest = data[cut:]
        yield data[:cut], ended
    if problem is not None:
        raise problem


_COLOUR = re.compile(rb"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[()][0-9A-B])")


def without_colours(data: bytes) -> bytes:
    """Take out what colours a terminal; no line break goes."""
    return _COLOUR.sub(b"", data) if b"\x1b" in data else data
