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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools

from hpcbench.inference.proxy import address, proxy

MAX_ANSWER = 64 << 20  # bytes: one that goes on for ever ends here
_AT_ONCE = 32  # connections that are being opened
_STALE = 1_000_000_000  # ns: a connection that is lost within it, before a word, had been closed before the request
STOPPED = "stopped: by this client"
clock = time.monotonic_ns


@dataclass(slots=True)
class Exchange:
    """One request and what came back. Times are nanoseconds of the monotonic clock, 0 where it did not come to that.

    `pieces` are the body as it came, transfer encoding taken off, and `arrivals` when each was read. `failure` is empty
    where the answer is whole; else the phase in which it ended and why: ``connect: Connection refused``.
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
    resent: int = 0  # for how long it was with a connection that was gone, before it was sent again
    head_alone: bool = False  # what the body of a success says is not wanted
    secrets: tuple[str, ...] = field(default=(), repr=False)  # what it was sent with, for `decode` to blank out

    def header(self, name: bytes) -> bytes:
        """Return a header of the answer; empty where there is none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")


class Wire:
    """Connections to one endpoint, as many as there are requests in flight; each is used again and again.

    Belongs to the event loop that runs when it is made. Raises `ConfigError` where the address or the proxy that the
    environment names cannot be used.
    """

    def __init__(self, base_url: str, timeout: float = 300.0) -> None:
        parts = address(base_url, "the base_url of the endpoint")
        self.timeout = timeout
        self.opened = 0  # connections so far
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._base = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if self._secure else None
        self._proxy = proxy(parts.scheme, self._host, self._netloc)
        self._secrets = self._proxy.secrets if self._proxy else ()
        self._aborted = False
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._busy: set[_Connection] = set()
        self._opening: set[asyncio.Task[_Connection]] = set()
        self._watch = self._loop.create_task(self._end_what_takes_too_long())

    def abort(self) -> None:
        """Close every connection, for good; what is in flight ends as a failure."""
        self._aborted = True
        self._watch.cancel()
        for task in self._opening:
            task.cancel()
        for connection in [*self._idle, *self._busy]:
            connection.end(STOPPED)

    async def open(self, count: int) -> None:
        """Open connections ahead, so that no request waits for its own; where one fails, the requests will tell."""
        while (missing := count - len(self._idle)) > 0:
            opened = await asyncio.gather(
                *(self._connect(Exchange()) for _ in range(min(missing, _AT_ONCE))), return_exceptions=True
            )
            self._idle += [each for each in opened if isinstance(each, _Connection)]
            if any(isinstance(each, BaseException) for each in opened):
                return

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """Write the bytes of a request; what its Authorization holds is a secret of the exchanges from now on."""
        _, _, secret = headers.get("Authorization", "").partition(" ")
        if secret and secret not in self._secrets:
            self._secrets = (*self._secrets, secret)
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

    async def exchange(self, request: bytes, scheduled: int = 0, *, head_alone: bool = False) -> Exchange:
        """Send a request and take its answer, all of it or until it fails. Nothing is raised: failures are data.

        With `head_alone` the body of a success is not waited for; the connection is closed.
        """
        exchange = Exchange(scheduled, secrets=self._secrets, head_alone=head_alone)
        try:
            if not self._idle:
                await self._over(await self._connect(exchange), request, exchange)
            elif await self._over(self._idle.pop(), request, exchange):
                # the server had closed a connection that was kept open: that is no answer to this request
                first, exchange.failure = exchange.started, ""
                await self._over(await self._connect(exchange), request, exchange)
                exchange.resent = exchange.started - first if first else 0
        except _FailedError as error:
            exchange.failure = str(error)
        exchange.finished = exchange.finished or clock()
        return exchange

    async def _over(self, connection: _Connection, request: bytes, exchange: Exchange) -> bool:
        """Exchange over a connection; tells whether it was gone before the request came."""
        self._busy.add(connection)
        try:
            await connection.exchange(request, exchange)
        finally:
            self._busy.discard(connection)
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.end("")
        return connection.lost and (not exchange.started or exchange.finished - exchange.started < _STALE)

    async def _connect(self, exchange: Exchange) -> _Connection:
        if self._aborted:
            raise _FailedError(STOPPED)
        began = clock()
        task = self._loop.create_task(self._opened())
        self._opening.add(task)
        try:
            connection = await asyncio.wait_for(task, min(self.timeout, 60.0))
        except asyncio.CancelledError:
            if self._aborted:
                raise _FailedError(STOPPED) from None
            raise
        except (TimeoutError, asyncio.TimeoutError):
            raise _FailedError("connect: no answer") from None
        except (socket.gaierror, UnicodeError) as error:
            name = self._proxy.host if self._proxy else self._host
            raise _FailedError(f"dns: {name}: {getattr(error, 'strerror', None) or 'no name of a host'}") from None
        except ssl.SSLCertVerificationError as error:
            raise _FailedError(f"tls: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise _FailedError(f"tls: {error.reason or error}") from None
        except OSError as error:
            raise _FailedError(f"connect: {_said(error)}") from None
        finally:
            self._opening.discard(task)
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
            host = f"[{self._host}]" if ":" in self._host else self._host
            tunnel = await self._proxy.tunnel(self._loop, f"{host}:{self._port}")
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
        self.lost = False  # before a word of the answer
        self._heard = False
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
        self._exchange, self._size, self.reusable, self.lost, self._heard = exchange, 0, False, False, False
        self._done = self._loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        if self._transport.is_closing():
            self._lose(None)
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
        self._heard = True
        self._size += len(data)
        if self._exchange is None:
            self.end("")  # what nobody asked for
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.end(f"http: {error}" if isinstance(error, httptools.HttpParserError) else "http: another protocol")
        if self._size > MAX_ANSWER:
            self.end(f"body: longer than {MAX_ANSWER >> 20} MiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if (exchange := self._exchange) is not None:
            exchange.status = self._parser.get_status_code()
            if exchange.head_alone and 200 <= exchange.status < 300:
                self.end("")

    def on_body(self, body: bytes) -> None:
        if (exchange := self._exchange) is not None:
            exchange.arrivals.append(self._stamp)
            exchange.pieces.append(body)

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
        if self._exchange is not None:
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._stamp = clock()
        whole = exchange.status and not exchange.header(b"content-length") and not exchange.header(b"transfer-encoding")
        if whole and error is None:  # HTTP/1.0: the end of the connection is the end of the body
            self._finish("")
        elif exchange.status:
            self._finish(f"body: {_why(error)} in the middle of the answer")
        elif self._heard:
            self._finish(f"answer: {_why(error)} in the middle of its head")
        else:
            self.lost = True
            self._finish(f"answer: {_why(error)} before it began")

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
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset by the server"
    return "closed by the server" if error is None else _said(error)


def _said(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)
