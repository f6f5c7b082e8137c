"""The bytes of a log, whatever it is packed in: stretches of whole lines, in UTF-8 or any encoding that holds ASCII."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import tarfile
import zipfile
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


@dataclass(frozen=True)
class Member:
    """One log in a file: the file itself, or one file of an archive. `name` is empty for the file itself."""

    name: str
    open: Callable[[], IO[bytes]]
    plain: bool = False  # neither packed nor in an archive: stretches of it can be read apart


class UnreadableError(Exception):
    """A file holds no text that could be read; the message says what it is."""


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


def _opener(file: Path, kind: str) -> Callable[[], IO[bytes]]:
    def unpacked() -> IO[bytes]:
        raw: Any = file.open("rb")
        if kind == "gz":
            return _Bounded(gzip.GzipFile(fileobj=raw), raw)
        if kind == "xz":
            return _Bounded(lzma.LZMAFile(raw), raw)
        if kind == "bz2":
            return _Bounded(bz2.BZ2File(raw), raw)
        if kind == "zst":
            import pyarrow as pa

            return _Bounded(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"), raw)
        return raw  # type: ignore[no-any-return]

    return unpacked


class _Bounded(io.RawIOBase, BinaryIO):
    """A packed stream that ends where it is damaged, and raises `UnreadableError` where it grows without end."""

    def __init__(self, stream: Any, raw: IO[bytes]) -> None:
        self._stream, self._raw, self._given = stream, raw, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._stream.read(size if size >= 0 else STRETCH)
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            raise UnreadableError(f"damaged: {error}") from None
        self._given += len(data)
        if self._given > _FREE and self._given > _GROWTH * self._raw.tell():
            raise UnreadableError(f"grows beyond {_GROWTH} times its size")
        return data

    def close(self) -> None:
        self._stream.close()
        self._raw.close()
        super().close()


def _peek(open_stream: Callable[[], IO[bytes]], size: int) -> bytes:
    try:
        with open_stream() as stream:
            return stream.read(size)
    except UnreadableError:
        return b""


def _zip_members(file: Path) -> Iterator[Member]:
    try:
        with zipfile.ZipFile(file) as archive:
            names = [each for each in archive.infolist() if not each.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnreadableError(f"damaged: {error}") from None
    if any(re.search(r"(?:^|/)data\.pkl$|\.npy$", each.filename) for each in names):  # saved weights, not logs
        raise UnreadableError("binary")

    def opener(name: str) -> Callable[[], IO[bytes]]:
        def unpacked() -> IO[bytes]:
            raw = file.open("rb")
            try:
                return _Bounded(zipfile.ZipFile(raw).open(name), raw)
            except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError) as error:
                raw.close()
                raise UnreadableError(f"damaged: {error}") from None

        return unpacked

    for each in names:
        yield Member(each.filename, opener(each.filename))


def _tar_members(open_packed: Callable[[], IO[bytes]]) -> Iterator[Member]:
    """Yield the plain files of a tar; each is read when the archive is at its place, so they are read in order."""
    try:
        with open_packed() as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for each in archive:
                content = archive.extractfile(each) if each.isfile() else None
                if content is not None:
                    yield Member(each.name, lambda content=content: content)  # type: ignore[misc]
    except (tarfile.TarError, UnreadableError, OSError, EOFError, ValueError) as error:
        raise UnreadableError(f"damaged: {error}") from None


def stretches(stream: IO[bytes], size: int = STRETCH) -> Iterator[tuple[bytes, bool]]:
    """Yield the bytes of a stream in stretches that end where a line ends, and with each whether it is the last.

    UTF-16 and UTF-32 come as UTF-8; every other encoding as it is. A line longer than `size` is cut.
    """
    head = stream.read(4)
    mark, encoding = next(((mark, name) for mark, name in _ENCODINGS if head.startswith(mark)), (b"", ""))
    recode = codecs.getincrementaldecoder(encoding)(errors="replace") if encoding else None
    if not encoding:
        head = head[len(mark) :]
    rest, ended = b"", False
    while not ended:
        parts, length = [head], len(head)
        head = b""
        while length < size and not ended:
            parts.append(stream.read(size - length))
            length += len(parts[-1])
            ended = not parts[-1]
        data = b"".join(parts)
        if recode is not None:
            data = recode.decode(data, ended).encode("utf-8", errors="replace")
        data = rest + data
        cut = len(data) if ended or len(rest) >= size else data.rfind(b"\n") + 1
        rest = data[cut:]
        yield data[:cut], ended


_COLOUR = re.compile(rb"\x1b(?:\[[0-9;:?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[()][0-9A-B])")


def without_colours(data: bytes) -> bytes:
    """Take out what colours a terminal; no line break goes."""
    return _COLOUR.sub(b"", data) if b"\x1b" in data else data
