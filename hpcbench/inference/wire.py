"""HTTP/1.1 as a stopwatch: the bytes of an answer, each piece with the time at which it arrived.

Nothing is decoded here. A piece is stamped as the first thing after it was read, and `started` is the clock just before
the request's bytes are given to the kernel, past every queue of this client's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools

MAX_BODY = 64 << 20  # bytes of one answer: one that goes on for ever ends here
clock = time.monotonic_ns


@dataclass(slots=True)
class Exchange:
    """One request and what came back. Times are nanoseconds of the monotonic clock, 0 where it did not come to that.

    `pieces` are the body as it came, transfer encoding taken off, and `arrivals` when each was read. `failure` is empty
    where the answer is whole; else the phase in which it ended and why: ``connect: refused``.
    """

    scheduled: int = 0
    started: int = 0
    connected: int = 0  # how long the connection took to open; 0 where an open one was used
    finished: int = 0
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    failure: str = ""

    def header(self, name: bytes) -> bytes:
        """Return a header of the answer; empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


class Wire:
    """Connections to one endpoint, as many as there are requests in flight; each is used again and again.

    Belongs to the event loop that runs when it is made.
    """

    def __init__(self, base_url: str, timeout: float = 300.0) -> None:
        parts = urllib.parse.urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url} is not an address that begins with http:// or https://")
        self.timeout = timeout
        self.opened = 0  # connections so far
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname, parts.port or (443 if self._secure else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._base = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if self._secure else None
        self._proxy = _proxy(parts.scheme, self._netloc)
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._watch = self._loop.create_task(self._end_what_takes_too_long())

    def abort(self) -> None:
        """Close every connection; what is in flight ends as a failure."""
        self._watch.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.end("stopped: by this client")

    async def open(self, count: int) -> None:
        """Open connections ahead, so that no request waits for its own; those that fail are left to the requests."""
        for _ in range(count - len(self._idle)):
            with contextlib.suppress(_FailedError):
                self._idle.append(await self._connect(Exchange()))

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """Write the bytes of a request."""
        target = f"{self._base}{path}"
        lines = {
            "Host": self._netloc,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
            **headers,
        }
        if self._proxy and not self._secure:
            target = f"http://{self._netloc}{target}"
            lines |= self._proxy.headers
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {target} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body

    async def exchange(self, request: bytes, scheduled: int = 0) -> Exchange:
        """Send a request and take its answer, all of it or until it fails. Nothing is raised: failures are data."""
        exchange = Exchange(scheduled)
        try:
            connection = self._idle.pop() if self._idle else await self._connect(exchange)
            fresh = exchange.connected > 0
            await self._over(connection, request, exchange)
            if exchange.failure and not fresh and not exchange.status and exchange.failure.startswith("closed"):
                # the server had closed a connection that was kept open: that is no answer to this request
                exchange.failure = ""
                await self._over(await self._connect(exchange), request, exchange)
        except _FailedError as error:
            exchange.failure = str(error)
        exchange.finished = exchange.finished or clock()
        return exchange

    async def _over(self, connection: _Connection, request: bytes, exchange: Exchange) -> None:
        self._busy.add(connection)
        try:
            await connection.exchange(request, exchange)
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.end("")

    async def _connect(self, exchange: Exchange) -> _Connection:
        began = clock()
        try:
            connection = await asyncio.wait_for(self._opened(), min(self.timeout, 60.0))
        except TimeoutError:
            raise _FailedError("connect: no answer") from None
        except socket.gaierror as error:
            raise _FailedError(f"dns: {self._host}: {error.strerror}") from None
        except ssl.SSLCertVerificationError as error:
            raise _FailedError(f"tls: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise _FailedError(f"tls: {error.reason or error}") from None
        except OSError as error:
            raise _FailedError(f"connect: {error.strerror or error}") from None
        exchange.connected = clock() - began
        self.opened += 1
        return connection

    async def _opened(self) -> _Connection:
        def made() -> _Connection:
            return _Connection(self._loop, direct=not self._secure, gone=self._forget)

        name = self._host if self._secure else None
        if self._proxy is None:
            _, opened = await self._loop.create_connection(
                made, self._host, self._port, ssl=self._tls, server_hostname=name
            )
        elif not self._secure:
            _, opened = await self._loop.create_connection(made, self._proxy.host, self._proxy.port)
        else:
            tunnel = await self._proxy.tunnel(self._loop, f"{self._host}:{self._port}")
            _, opened = await self._loop.create_connection(made, sock=tunnel, ssl=self._tls, server_hostname=name)
        return opened

    def _forget(self, connection: _Connection) -> None:
        """Take a connection that the server closed from those that are kept."""
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    async def _end_what_takes_too_long(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            limit = clock() - int(self.timeout * 1e9)
            for connection in list(self._busy):
                if connection.started and connection.started < limit:
                    connection.end(f"timeout: no end within {self.timeout:g} s")


class _FailedError(Exception):
    """A connection could not be opened; in the words of `Exchange.failure`."""


class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, direct: bool, gone: Callable[[_Connection], None]) -> None:
        self.started = 0
        self.reusable = False
        self._loop, self._direct, self._gone = loop, direct, gone
        self._transport: Any = None
        self._file = -1
        self._parser: Any = None
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[None] | None = None
        self._stamp = self._size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        place = transport.get_extra_info("socket")
        if place is not None:
            with contextlib.suppress(OSError):
                place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                place.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._direct:
                self._file = place.fileno()

    async def exchange(self, request: bytes, exchange: Exchange) -> None:
        self._exchange, self._size, self.reusable = exchange, 0, False
        self._done = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        if self._transport.is_closing():
            self._finish("closed: by the server, before the request")
            return
        sent = 0
        self.started = exchange.started = clock()
        if self._file >= 0:
            # past the event loop's own queue, which is written only after all that is ready now was looked at
            with contextlib.suppress(OSError):
                sent = os.write(self._file, request)
        if sent < len(request):
            self._transport.write(request[sent:])
        await self._done

    def data_received(self, data: bytes) -> None:
        self._stamp = clock()
        if self._exchange is None:
            self.end("")  # what nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"http: {error or 'no answer of HTTP'}")
            self.end("")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if (exchange := self._exchange) is not None:
            exchange.arrivals.append(self._stamp)
            exchange.pieces.append(body)
            self._size += len(body)
            if self._size > MAX_BODY:
                self._finish(f"body: longer than {MAX_BODY >> 20} MiB")
                self.end("")

    def on_message_complete(self) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if 100 <= exchange.status < 200:  # the answer is still to come
            exchange.status = 0
            exchange.headers.clear()
            return
        self.reusable = bool(self._parser.should_keep_alive())
        self._finish("")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(self)
        if (exchange := self._exchange) is None:
            return
        self._stamp = clock()
        whole = exchange.status and not exchange.header(b"content-length") and not exchange.header(b"transfer-encoding")
        if whole and error is None:  # HTTP/1.0: the end of the connection is the end of the body
            self._finish("")
        elif exchange.status:
            self._finish(f"body: {_why(error)} in the middle of the answer")
        else:
            self._finish(f"closed: {_why(error)} before an answer")

    def end(self, failure: str) -> None:
        """Close the connection, whatever happens on it."""
        self.reusable = False
        self._stamp = clock()
        self._finish(failure)
        self._transport.abort()

    def _finish(self, failure: str) -> None:
        exchange, self._exchange, self.started = self._exchange, None, 0
        if exchange is not None:
            exchange.failure = failure
            exchange.finished = self._stamp or clock()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


def _why(error: Exception | None) -> str:
    if isinstance(error, ConnectionResetError):
        return "reset by the server"
    return "closed by the server" if error is None else str(error)


@dataclass(frozen=True)
class _Proxy:
    """A proxy that the environment names."""

    host: str
    port: int
    headers: Mapping[str, str]

    async def tunnel(self, loop: asyncio.AbstractEventLoop, target: str) -> socket.socket:
        """Open a way through it; raises `OSError`."""
        family, kind, protocol, _, address = (await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM))[0]
        way = socket.socket(family, kind, protocol)
        try:
            way.setblocking(False)
            await loop.sock_connect(way, address)
            lines = {"Host": target, **self.headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            await loop.sock_sendall(way, f"CONNECT {target} HTTP/1.1\r\n{head}\r\n".encode("ascii"))
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 1 << 16:
                if not (more := await loop.sock_recv(way, 4096)):
                    break
                answer += more
            self._check(answer)
        except BaseException:
            way.close()
            raise
        return way

    def _check(self, answer: bytes) -> None:
        words = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(words) < 2 or words[1] != b"200":
            said = b" ".join(words[1:]).decode("ascii", "replace") or "nothing"
            raise OSError(f"the proxy {self.host} answers {said}")


def _proxy(scheme: str, netloc: str) -> _Proxy | None:
    found = urllib.request.getproxies().get(scheme)
    if not found or urllib.request.proxy_bypass(netloc):
        return None
    parts = urllib.parse.urlsplit(found if "://" in found else f"http://{found}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the proxy of the environment is not one of http: {parts.scheme}://{parts.hostname or ''}")
    headers = {}
    if parts.username is not None:
        who = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {b64encode(who.encode()).decode()}"
    return _Proxy(parts.hostname, parts.port or 80, headers)
