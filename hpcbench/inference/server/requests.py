"""Requests of HTTP/1.1 out of a client's bytes, whatever pieces they come in; what is none is refused."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass

_MOST_HEAD, _MOST_BODY = 1 << 16, 1 << 25
LARGEST = 2 * _MOST_HEAD + _MOST_BODY  # bytes of a request that can come before it is refused
_FRAMING = ("content-length", "transfer-encoding")


class RefusedError(Exception):
    """A request that gets an error for an answer; `last`: nothing after it can be read."""

    def __init__(self, status: int, message: str, *, last: bool = False) -> None:
        self.status, self.message, self.last = status, message, last
        super().__init__(message)


@dataclass(frozen=True)
class Request:
    """A request that was read whole; the names of its headers are in small letters."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


def requests(inbox: bytearray) -> Generator[Request | None, None, None]:
    """Take requests out of `inbox`, None where more bytes are needed; raises `RefusedError`."""
    while True:
        lines = (yield from _until(inbox, b"\r\n\r\n")).decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or words[2] != "HTTP/1.1":
            raise RefusedError(400, "expected a request of HTTP/1.1", last=True)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            name = name.lower()
            if not colon or not re.fullmatch(r"[!-~]+", name) or (name in _FRAMING and name in headers):
                raise RefusedError(400, "a header is malformed or said twice", last=True)
            headers[name] = value.strip()
        path, _, query = words[1].partition("?")
        yield Request(words[0], path, query, headers, (yield from _body(inbox, headers)))


def _body(inbox: bytearray, headers: dict[str, str]) -> Generator[None, None, bytes]:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is None:
        if not re.fullmatch(r"[0-9]{1,12}", length or "0"):
            raise RefusedError(400, "Content-Length is no number", last=True)
        return (yield from _taken(inbox, int(length or 0)))
    if coding.lower() != "chunked" or length is not None:
        raise RefusedError(400, "Transfer-Encoding: expected chunked, without Content-Length", last=True)
    body = bytearray()
    while True:
        size = (yield from _until(inbox, b"\r\n")).partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,8}", size):
            raise RefusedError(400, "a chunk has no size", last=True)
        if int(size, 16) == 0:
            break
        body += yield from _taken(inbox, int(size, 16), len(body))
        if (yield from _taken(inbox, 2)) != b"\r\n":
            raise RefusedError(400, "a chunk is longer than its size", last=True)
    while (yield from _until(inbox, b"\r\n")):
        pass  # trailers
    return bytes(body)


def _until(inbox: bytearray, mark: bytes) -> Generator[None, None, bytes]:
    while (end := inbox.find(mark, 0, _MOST_HEAD)) < 0:
        if len(inbox) >= _MOST_HEAD:
            raise RefusedError(431, f"more than {_MOST_HEAD} bytes of headers", last=True)
        yield None
    found = bytes(inbox[:end])
    del inbox[: end + len(mark)]
    return found


def _taken(inbox: bytearray, length: int, before: int = 0) -> Generator[None, None, bytes]:
    if before + length > _MOST_BODY:
        raise RefusedError(413, f"more than {_MOST_BODY} bytes", last=True)
    while len(inbox) < length:
        yield None
    found = bytes(inbox[:length])
    del inbox[:length]
    return found
