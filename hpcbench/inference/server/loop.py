"""The server's one thread: it sends what is due, reads requests, and keeps the truth."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import select
import selectors
import socket
import time
from collections import deque
from heapq import heappop, heappush
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from hpcbench.inference.server.answers import MODEL, Answer, Truth, asked, decoded, kind, unknown_fields
from hpcbench.inference.server.requests import LARGEST, RefusedError, Request, requests

if TYPE_CHECKING:
    from array import array

    from hpcbench.inference.server import Behaviour

_BURST = 16  # sends, after which it is read again: a request that had to wait would be stamped late

_clock = time.monotonic_ns


class Server:
    """Listens on a port of loopback (0: any); raises `OSError` where it cannot."""

    def __init__(self, behaviour: Behaviour, port: int) -> None:
        self.behaviour = behaviour
        self.ready = selectors.DefaultSelector()
        self.read: deque[Connection] = deque()  # those whose requests are to be answered
        self._bearer = f"Bearer {os.environ[behaviour.token]}" if behaviour.token else ""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self.ready.register(self._listener, selectors.EVENT_READ, self._accept)
        self.port: int = self._listener.getsockname()[1]
        self._due: list[tuple[int, int, Answer]] = []  # a heap, by time (ns); no two numbers are equal
        self._numbers = itertools.count()
        self._truths: list[Truth] = []
        self._generating: Answer | None = None  # where requests are serialised, and those that wait for it
        self._line: deque[Answer] = deque()
        self._woken: int | None = None  # when the first request for a completion came (ns)
        self._ended = False

    def serve(self) -> None:
        """Serve until the descriptor of `end_with` ends."""
        gc.collect()
        gc.freeze()  # what is there now stays: the collector need not walk it between two sends
        due, selector = self._due, [self.ready.fileno()]
        while not self._ended:
            for _ in range(_BURST):
                if not due or due[0][0] > _clock():
                    break
                _, number, answer = heappop(due)
                if not answer.connection.gone and (following := answer.step()):
                    heappush(due, (following, number, answer))
            wait = 0 if self.read else max(0, due[0][0] - _clock()) / 1e9 if due else None
            # what is there is read before any of it is answered: what waits to be read would be stamped late;
            # a selector rounds its wait up to a millisecond, `select` on the selector itself does not
            if select.select(selector, [], [], wait)[0]:
                for key, events in self.ready.select(0):
                    key.data(events)
            elif self.read:
                self.read.popleft().go_on()

    def end_with(self, descriptor: int) -> None:
        """End when nothing can be read from there any more."""

        def read(_: int) -> None:
            self._ended = not os.read(descriptor, 4096)

        self.ready.register(descriptor, selectors.EVENT_READ, read)

    def answer(self, connection: Connection, request: Request, received: int) -> None:
        """Answer at once, or begin to; raises `RefusedError`."""
        where = f"{request.method} {request.path}"
        if request.path.startswith("/v1/") and self._bearer not in ("", request.headers.get("authorization")):
            raise RefusedError(401, "the token is missing or not the one expected")
        if where in ("POST /v1/chat/completions", "POST /v1/completions"):
            self._complete(connection, request, received)
        elif where == "GET /v1/models":
            model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "hpcbench"}
            connection.reply(200, {"object": "list", "data": [model]})
        elif where == "GET /truth":
            connection.reply(200, [truth.told(sends=request.query != "sends=0") for truth in self._truths])
        elif where == "POST /reset":
            self._truths.clear()
            connection.reply(200, {})
        elif where == "GET /health":
            connection.reply(200, {})
        else:
            raise RefusedError(404, "there is nothing here by this method and path")

    def over(self, answer: Answer) -> None:
        """Let the next begin after an answer that was sent whole, or whose client is gone."""
        if answer is self._generating:
            self._generating = None
            while self._line and self._generating is None:
                if not (following := self._line.popleft()).connection.gone:
                    self._begin(following, _clock())

    def _complete(self, connection: Connection, request: Request, received: int) -> None:
        body = decoded(request.body)
        if self.behaviour.strict and (unknown := unknown_fields(body)):
            said = {"type": "extra_forbidden", "msg": "Extra inputs are not permitted"}
            connection.reply(422, {"detail": [{**said, "loc": ["body", name]} for name in unknown]})
            return
        wanted = asked(body, chat=request.path == "/v1/chat/completions")
        if self._woken is None:
            self._woken = received
        if received - self._woken < self.behaviour.cold * 1e9:
            raise RefusedError(503, f"{wanted.model} online but not ready to receive tasks")
        truth = Truth(wanted.prompt, received)
        self._truths.append(truth)
        connection.answer = answer = kind(wanted, self.behaviour)(connection, wanted, self.behaviour, truth)
        if self.behaviour.serialise and self._generating:
            self._line.append(answer)
        else:
            self._begin(answer, received)

    def _begin(self, answer: Answer, start: int) -> None:
        self._generating = answer
        heappush(self._due, (answer.begin(start), next(self._numbers), answer))

    def _accept(self, _: int) -> None:
        with contextlib.suppress(OSError):  # it is gone again, or no descriptor is left for it
            Connection(self, self._listener.accept()[0])


class Connection:
    """A client: its requests in, one after the other, and their answers out."""

    def __init__(self, server: Server, connected: socket.socket) -> None:
        self.answer: Answer | None = None  # in the making
        self.gone = False
        self._server = server
        self._socket = connected
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._inbox = bytearray()
        self._received = 0  # when the last bytes were (ns)
        self._requests = requests(self._inbox)
        self._waiting: deque[tuple[bytes, array[int] | None, int]] = deque()  # what the client did not take yet
        self._last = False  # no request is read after the one that is being answered
        server.ready.register(connected, selectors.EVENT_READ, self._moved)

    def send(self, data: bytes, stamps: array[int] | None = None, tokens: int = 1) -> None:
        """Send, and stamp the tokens in it just before; what is not taken is sent when it can be."""
        if self._waiting:
            self._waiting.append((data, stamps, tokens))
            return
        now = _clock()
        try:
            taken = self._socket.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.close()
            return
        if stamps is not None and taken:
            stamps.extend((now,) * tokens)
            stamps = None
        if taken < len(data):
            self._waiting.append((data[taken:], stamps, tokens))
            self._server.ready.modify(self._socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self._moved)

    def reply(self, status: int, body: Any, stamps: array[int] | None = None) -> None:
        """Send a whole answer of JSON."""
        payload = json.dumps(body).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\nConnection: {'close' if self._last else 'keep-alive'}\r\n\r\n"
        )
        self.send(head.encode() + payload, stamps)

    def done(self) -> None:
        """Go on with the next request after an answer that took its time."""
        answer, self.answer = self.answer, None
        if answer and not self.gone:
            self._server.over(answer)
            self.go_on()

    def go_on(self) -> None:
        """Answer the requests that are there, and wait where an answer takes its time."""
        while not (self.answer or self._last or self.gone):
            try:
                if (request := next(self._requests)) is None:
                    return
                self._last = request.headers.get("connection", "").lower() == "close"
                self._server.answer(self, request, self._received)
            except RefusedError as refusal:
                self._last = self._last or refusal.last
                self.reply(refusal.status, {"error": {"message": refusal.message, "code": refusal.status}})
        if len(self._inbox) > LARGEST:
            self.close()
        self._half_close()

    def close(self) -> None:
        """Forget a client that is gone."""
        if not self.gone:
            self.gone = True
            self._waiting.clear()
            self._server.ready.unregister(self._socket)
            self._socket.close()
            if self.answer:
                self._server.over(self.answer)

    def _moved(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send_waiting()
        if events & selectors.EVENT_READ and not self.gone:
            self._read()

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        while waiting and not self._waiting and not self.gone:
            self.send(*waiting.popleft())
        self._waiting += waiting
        if not self._waiting and not self.gone:
            self._server.ready.modify(self._socket, selectors.EVENT_READ, self._moved)
            self._half_close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received = _clock()
        if not data:
            self.close()
        elif not self._last:
            self._inbox += data
            self._server.read.append(self)

    def _half_close(self) -> None:
        """Say that no more comes, so that the client closes: a close here would reset what it has not read yet."""
        if self._last and not (self.answer or self._waiting or self.gone):
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
