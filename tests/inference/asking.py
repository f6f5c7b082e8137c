"""Asking a server through the client under test, in as few words as the tests can bear."""

import asyncio
import json
import threading
from contextlib import contextmanager
from socket import create_server

from hpcbench.inference.decode import decode
from hpcbench.inference.wire import Wire

MESSAGES = [{"role": "user", "content": "hi"}]
BODY = {"model": "ok", "messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}


def run(work):
    """Run on the event loop that a measurement has, which is uvloop where that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def ask(url, *, requests=1, at_once=1, timeout=20.0, token="", then=None, **body):
    """Return the exchanges of some requests; `then` gets the wire when they are over."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def work():
        wire = Wire(url, timeout)
        request = wire.post("/chat/completions", headers, json.dumps({**BODY, **body}).encode())
        left = iter(range(requests))

        async def stream():
            return [await wire.exchange(request) for _ in left]

        found = await asyncio.gather(*(stream() for _ in range(at_once)))
        if then:
            then(wire)
        wire.abort()
        return [exchange for each in found for exchange in each]

    return run(work())


def answer(url, **options):
    """Return the answer to one request, decoded."""
    (exchange,) = ask(url, **options)
    return decode(exchange)


@contextmanager
def saying(*answers, after=None):
    """Serve raw bytes: the nth request of each connection gets the nth answer, and then the connection ends.

    `after` is called with the socket in place of that end.
    """
    with create_server(("127.0.0.1", 0)) as listening:

        def serve():
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(client,), daemon=True).start()

        def talk(client):
            with client:
                for each in answers:
                    if not client.recv(1 << 16):
                        return
                    client.sendall(each)
                if after:
                    after(client)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        listening.shutdown(2)


def whole(body, head=b""):
    """Write an answer of HTTP with a JSON body."""
    packed = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        head, len(packed), packed
    )  # fmt: skip


def said(text):
    """Write a chat completion."""
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
